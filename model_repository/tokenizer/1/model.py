"""The `tokenizer` entry: see python_backends/tokenizer."""

from python_backends.tokenizer.service import TokenizerService as TritonPythonModel  # noqa: F401
