"""The `whisper_bls` entry: see python_backends/audio."""

from python_backends.audio.whisper_bls_service import WhisperBls as TritonPythonModel  # noqa: F401
