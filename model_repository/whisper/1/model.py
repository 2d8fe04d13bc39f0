"""The `whisper` entry: see python_backends/audio."""

from python_backends.audio.whisper_service import WhisperService as TritonPythonModel  # noqa: F401
