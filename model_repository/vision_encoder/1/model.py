"""The `vision_encoder` entry: see python_backends/vision."""

from python_backends.vision.encoder_service import VisionEncoderService as TritonPythonModel  # noqa: F401
