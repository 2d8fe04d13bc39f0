"""Images: from encoded bytes to pixel values, and from those to the features a language model reads."""
