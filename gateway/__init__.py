"""The OpenAI-compatible front door: translates HTTP into Triton gRPC calls and knows no model."""
