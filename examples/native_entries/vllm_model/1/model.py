"""Triton entry; the code is in python_backends/native_clients."""

from python_backends.native_clients.service import VllmModel as TritonPythonModel  # noqa: F401
