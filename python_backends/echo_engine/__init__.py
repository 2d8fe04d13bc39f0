"""An engine without a model, for load tests of everything around it."""
