"""The `audio_frontend` entry: see python_backends/audio."""

from python_backends.audio.frontend_service import AudioFrontend as TritonPythonModel  # noqa: F401
