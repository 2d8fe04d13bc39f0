"""A second system, whose chat model calls tools."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import System, serve


@pytest.fixture(scope="session")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The repository's own configuration names no format of tool calls."""
    with serve(tmp_path_factory.mktemp("calling"), "--tool-call-parser", "hermes") as running:
        yield running
