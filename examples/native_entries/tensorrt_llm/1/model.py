"""Triton entry; the code is in python_backends/native_clients."""

from python_backends.native_clients.service import TensorRTLLM as TritonPythonModel  # noqa: F401
