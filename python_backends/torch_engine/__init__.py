"""The embedded engine: continuous batching over Hugging Face modules, with our own scheduler, cache and sampler.

Read in this order: sequence, slots, scheduler (plain Python), then cache, attention, loading, structure, model, runner,
self_check, then sampler, sampling_batch, filters, guided, progress, and engine, which joins them.
"""
