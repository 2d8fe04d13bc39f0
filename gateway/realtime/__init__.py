"""Speech to text over a WebSocket while a person speaks: OpenAI's realtime events for transcription sessions."""
