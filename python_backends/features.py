"""Image features that are fetched only if somebody needs them. Knows no encoder: whoever makes one says how to ask.

The tokens of an image that the KV cache covers need no features, but only the engine finds out whether it does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class FeatureSource:
    """The features [n, d] of one image, for one request; `ask` begins to fetch them, and is called at most once."""

    def __init__(self, ask: Callable[[], Future[Array]]) -> None:
        self._ask: Callable[[], Future[Array]] | None = ask
        self._future: Future[Array] = Future()

    def __repr__(self) -> str:
        return f"<FeatureSource {'not asked' if self._ask else 'failed' if self.error else self._future}>"

    @property
    def array(self) -> Array | None:
        """None while they are not here, and when they will never be."""
        return self._future.result() if self._future.done() and not self._future.exception() else None

    @property
    def error(self) -> BaseException | None:
        """Why they will never be here."""
        return self._future.exception() if self._future.done() else None

    def ask(self) -> None:
        if self._ask is None:
            return
        ask, self._ask = self._ask, None
        try:
            self._future = ask()
        except Exception as error:  # ends the requests that need the features, and nobody's loop
            self._future.set_exception(error)

    def then(self, done: Callable[[], None]) -> None:
        """Calls `done` as soon as there is an array or an error: at once, or in the thread that brings it."""
        self._future.add_done_callback(lambda _: done())


@dataclass(frozen=True)
class LazyFeatures:
    """Some rows of what a source will give: an image may stand in several places of a prompt."""

    source: FeatureSource
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> LazyFeatures:
        return LazyFeatures(self.source, self.rows[rows])

    @property
    def array(self) -> Array | None:
        whole = self.source.array
        return None if whole is None else whole[self.rows.start : self.rows.stop]
