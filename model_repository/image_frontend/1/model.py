"""The `image_frontend` entry: see python_backends/vision."""

from python_backends.vision.frontend_service import ImageFrontend as TritonPythonModel  # noqa: F401
