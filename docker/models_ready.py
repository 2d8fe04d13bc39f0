"""Health check of the Triton container: exit code 0 when every entry that MODELS names says that it is ready.

Model readiness and not server readiness: the server stays ready when the process of a model has died.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

URL = "http://127.0.0.1:{}/v2/models/{}/ready"
TIMEOUT_S = 5


def main() -> int:
    entries = os.environ.get("MODELS", "*").split()
    if entries == ["*"]:
        repository = Path(os.environ["MODEL_REPOSITORY"])
        entries = sorted(config.parent.name for config in repository.glob("*/config.pbtxt"))
    waiting = [entry for entry in entries if not is_ready(entry)]
    print(f"not ready: {', '.join(waiting)}" if waiting else f"{len(entries)} entries are ready")
    return 1 if waiting or not entries else 0


def is_ready(entry: str) -> bool:
    try:
        with urllib.request.urlopen(
            URL.format(os.environ.get("TRITON_HTTP_PORT", "8000"), entry), timeout=TIMEOUT_S
        ) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
