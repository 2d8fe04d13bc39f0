"""From the responses of `llm` to answers: read, taken apart, counted, and written in the form of a route."""
