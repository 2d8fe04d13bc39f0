"""The OpenAI requests that the gateway takes, and the shapes it answers with."""
