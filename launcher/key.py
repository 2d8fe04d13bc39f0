"""Makes an API key of the gateway. The file holds its SHA-256 only, so the key is shown once and never again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError


def add_key(file: Path, name: str, limits: Mapping[str, str | None], models: str | None, admin: bool) -> str:
    """Adds a line to `file`, see docs/security.md, and returns the key. Raises LauncherError."""
    if not re.fullmatch(r"[\w.\-]{1,64}", name):
        raise LauncherError(f"{name!r} is not a name for a key: letters, digits, _ . and -, 64 at most")
    if name in _names(file):
        raise LauncherError(f"{file} has a key {name} already; take another name, or remove its line")
    key = "tm-" + secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()}
    entry |= {limit: int(value) for limit, value in limits.items() if value is not None}
    if models:
        entry["models"] = [model.strip() for model in models.split(",") if model.strip()]
    if admin:
        entry["admin"] = True
    # Others on the machine need not know who has keys.
    with open(file, "a", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
        out.write(json.dumps(entry) + "\n")
    return key


def _names(file: Path) -> set[str]:
    lines = file.read_text().splitlines() if file.exists() else []
    try:
        return {json.loads(line)["name"] for line in lines if line.strip() and not line.lstrip().startswith("#")}
    except (json.JSONDecodeError, KeyError, TypeError):
        raise LauncherError(f"{file} is not a key file: each line must be a JSON object with a name") from None
