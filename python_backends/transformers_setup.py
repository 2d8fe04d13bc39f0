"""How a process of ours wants the transformers library: without torch where it is not needed, and quiet.

transformers decides at import whether torch exists; a process in which it does not starts three times faster and takes
a quarter of the memory (measured: docs/decisions/0040-frontends-without-torch.md).
"""

from __future__ import annotations

import os
import sys
from typing import Any


def keep_torch_out() -> None:
    """Make `import torch` fail in this process. Call it before transformers is imported; a loaded torch stays."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # None is how Python spells a module that cannot be imported.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]


def keep_quiet() -> None:
    """No progress bars, and no advice per request in the server's log; errors are still said."""
    from transformers.utils import logging as untyped_logging

    logging: Any = untyped_logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
