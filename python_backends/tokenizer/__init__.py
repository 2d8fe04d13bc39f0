"""The checkpoint’s tokenizer as an entry of its own."""
