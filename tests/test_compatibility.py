"""docs/compatibility.md stays true: each row has its test or its reason, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/compatibility.md"
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows(page: str) -> list[tuple[str, list[str]]]:
    """(the columns of the table, the cells) of each row; a cell may hold an escaped `|`."""
    found: list[tuple[str, list[str]]] = []
    columns = ""
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            columns = ""
        elif not columns:
            columns = " | ".join(cells)
        elif any(set(cell) != {"-"} for cell in cells):
            found.append((columns, cells))
    return found


def defined(path: str) -> set[str]:
    """The tests and classes of tests in a file below tests/."""
    file = ROOT / "tests" / path
    if not file.exists():
        return set()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)}
    return {name for name in names if name.startswith(("test_", "Test"))}


def missing_tests(page: str) -> list[str]:
    named = TEST.findall(page)
    tests = {path: defined(path) for path, _ in named}
    return [f"{path}::{name}" for path, name in named if name not in tests[path]]


def rows_without_proof(page: str) -> list[str]:
    """What is the same must name a test; a difference must say what is here instead."""
    return [
        cells[0]
        for columns, cells in rows(page)
        if not cells[-1] or (not columns.endswith("here") and not TEST.search(cells[-1]))
    ]


def test_every_named_test_exists() -> None:
    page = PAGE.read_text()
    assert len(TEST.findall(page)) > 100
    assert missing_tests(page) == []


def test_every_row_has_its_test_or_its_reason() -> None:
    page = PAGE.read_text()
    assert len(rows(page)) > 100
    assert rows_without_proof(page) == []


@pytest.mark.parametrize(
    "page",
    [
        "| what | shown by |\n| --- | --- |\n| a | yes |\n",
        "| there | here |\n| --- | --- |\n| a | |\n",
        "| there | here |\n| --- | --- |\n| a | `test_compatibility.py::test_of_nothing` |\n",
        "| what | shown by |\n| --- | --- |\n| a | `nowhere.py::test_every_named_test_exists` |\n",
    ],
)
def test_a_gap_is_found(page: str) -> None:
    assert missing_tests(page) or rows_without_proof(page)
