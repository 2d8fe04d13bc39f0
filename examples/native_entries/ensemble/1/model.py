"""Triton entry; the code is in python_backends/native_clients."""

from python_backends.native_clients.service import Ensemble as TritonPythonModel  # noqa: F401
