"""Training of the bundled demo speech model: a tiny Whisper taught on espeak-ng speech."""
