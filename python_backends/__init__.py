"""Model-side code of Trimodal: what the entries of `model_repository` run inside Triton.

Nothing here knows HTTP or the OpenAI API, and only `triton_io` imports Triton's Python-backend module.
"""
