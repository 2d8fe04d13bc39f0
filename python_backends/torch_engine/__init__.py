"""The embedded engine: continuous batching over Hugging Face modules, with our own scheduler, cache and sampler.

Read in this order: sequence, slots, scheduler (plain Python), then cache, attention, model, runner, sampler, engine.
"""
