"""The `llm` entry: see python_backends/llm."""

from python_backends.llm.service import LlmService as TritonPythonModel  # noqa: F401
