"""Keeps torch out of a process that only needs transformers' tokenizers and processors.

transformers decides at import whether torch exists; a process in which it does not starts three times faster and takes a
quarter of the memory (measured: docs/decisions/0040-frontends-without-torch.md).
"""

from __future__ import annotations

import os
import sys


def keep_torch_out() -> None:
    """Make `import torch` fail in this process. Call it before transformers is imported; a loaded torch stays."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # None is how Python spells "cannot be imported"
