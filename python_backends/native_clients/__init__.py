"""Entries with the names and shapes that NVIDIA's bundled clients insist on, answered by `llm`."""
