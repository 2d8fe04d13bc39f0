"""Model-side code of Trimodal: what the entries of `model_repository` run inside Triton.

Nothing here knows HTTP or the OpenAI API, and only `triton_io` imports Triton's Python-backend module.
"""

import os

# OpenMP reads this when torch is loaded, so it must stand before any import of it. A thread that waits for the others
# spins for part of a millisecond and then sleeps: docs/decisions/0013-threads-spin-briefly.md.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
