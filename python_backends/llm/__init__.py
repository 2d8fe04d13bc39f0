"""The `llm` entry: from tensors to a prompt, from an engine's tokens to safe text and back to tensors."""
