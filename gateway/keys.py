"""API keys: names, digests, limits and rights, read again when their file changes. Knows no request, and keeps no key.

A key file has one JSON object per line, as `./trimodal key` writes it; see docs/security.md. Keys are random and have
256 bits, so one SHA-256 is as strong as a slow salted hash: nobody can try them all, and no request pays for one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.settings import SettingError, Settings, split

log = logging.getLogger("trimodal.gateway")

# How often a request looks whether the file has changed.
LOOK_INTERVAL_S = 1.0
# A digest without salt protects no word that somebody may think of.
MIN_KEY_LENGTH = 16


class ApiKey(BaseModel):
    """One line of the file. A limit that is left out is none; `models` are ids or aliases.

    `admin` may load and unload models.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w.\-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    max_concurrency: int | None = Field(default=None, ge=1)
    models: list[str] | None = None
    admin: bool = False

    @property
    def cache_salt(self) -> str:
        """Separates this key's prefixes from those of others; the same in every process and after a restart."""
        return digest_of("cache_salt:" + self.sha256)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(settings: Settings) -> list[ApiKey]:
    """The keys of the file and of the environment; empty: whoever asks is served. Raises SettingError."""
    keys = _all_keys(settings)
    if settings.api_key_file and not keys:
        raise SettingError("api_key_file", settings.api_key_file, "holds no key; without keys, leave it out")
    return keys


class KeyRing:
    """The keys that hold now. A file that is broken changes nothing, and one that holds none lets nobody in."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._now = now
        self._looked_at = now()
        self._stamp = self._stamp_now()
        self.keys = read_keys(settings)

    def __repr__(self) -> str:
        return f"<KeyRing {[key.name for key in self.keys]}>"

    def current(self) -> list[ApiKey]:
        """The same list as before, unless the file has changed."""
        if self._now() - self._looked_at >= LOOK_INTERVAL_S:
            self._looked_at = self._now()
            stamp = self._stamp_now()
            if stamp != self._stamp:
                self._stamp = stamp
                self._read_again()
        return self.keys

    def _read_again(self) -> None:
        try:
            self.keys = _all_keys(self._settings)
            log.info("the keys were read again: %s", ", ".join(key.name for key in self.keys) or "none")
        except SettingError as error:
            log.error("the keys stay as they were: %s", error)

    def _stamp_now(self) -> tuple[int, ...]:
        try:
            state = os.stat(self._settings.api_key_file)
        except OSError:
            return ()
        return state.st_mtime_ns, state.st_size, state.st_ino


def _all_keys(settings: Settings) -> list[ApiKey]:
    keys = [*_from_file(settings.api_key_file), *_from_environment(settings.api_keys)]
    for what in ("name", "sha256"):
        _refuse_twins(what, keys)
    return keys


def _from_file(path: str) -> Iterator[ApiKey]:
    if not path:
        return
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("api_key_file", path, f"cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield _read_line(line, f"{path}:{number}")


def _read_line(line: str, where: str) -> ApiKey:
    try:
        return ApiKey.model_validate_json(line)
    except ValidationError as error:
        # Without the input: a key that somebody wrote into the file by mistake must not reach a log.
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, fault["loc"])) or "line"
        raise SettingError("api_key_file", where, f"{field}: {fault['msg']}") from None


def _from_environment(text: str) -> Iterator[ApiKey]:
    for number, key in enumerate(split(text), 1):
        if len(key) < MIN_KEY_LENGTH:
            raise SettingError("api_keys", f"key {number}", f"is shorter than {MIN_KEY_LENGTH} characters")
        yield ApiKey(name=f"environment-{number}", sha256=digest_of(key))


def _refuse_twins(what: str, keys: Iterable[ApiKey]) -> None:
    values: Sequence[str] = [getattr(key, what) for key in keys]
    for key, value in zip(keys, values, strict=True):
        if values.count(value) > 1:
            raise SettingError("api_keys", key.name, f"has the same {what} as another key")
