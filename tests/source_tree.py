"""The project's source as the architecture test sees it: imports, functions and lines, read from the syntax tree.

Parses files and never imports them, so it sees imports inside functions too and needs none of their dependencies.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Import:
    """`name` is absolute and dotted; `from a import b` gives `a.b`."""

    name: str
    line: int

    def reaches(self, module: str) -> bool:
        return self.name == module or self.name.startswith(f"{module}.")


@dataclass(frozen=True)
class Function:
    """`length` is in lines, from `def` to the end; `unannotated` names what has no type."""

    name: str
    line: int
    length: int
    unannotated: tuple[str, ...]


@dataclass(frozen=True)
class Module:
    """One file: its path relative to the repository's root, and its text."""

    path: str
    text: str

    def at(self, line: int) -> str:
        return f"{self.path}:{line}"

    @property
    def num_lines(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[Import]:
        """All imports, wherever they are, and `import_module` of a literal name."""
        return [found for node in self.nodes for found in self._imports_of(node)]

    @cached_property
    def functions(self) -> list[Function]:
        return [_describe(node) for node in self.nodes if isinstance(node, _DEFINITIONS)]

    @cached_property
    def comments(self) -> dict[int, str]:
        """Line -> comment, also of comments behind code."""
        return {token.start[0]: token.string for token in self._tokens if token.type == tokenize.COMMENT}

    @cached_property
    def comment_lines(self) -> set[int]:
        """Lines that hold a comment and nothing else."""
        lines = self.text.splitlines()
        return {line for line in self.comments if lines[line - 1].lstrip().startswith("#")}

    @cached_property
    def code_lines(self) -> set[int]:
        """Lines with code on them; neither blank lines, nor comments, nor docstrings."""
        code: set[int] = set()
        for token in self._tokens:
            if token.type != tokenize.COMMENT and token.type not in _LAYOUT:
                code.update(range(token.start[0], token.end[0] + 1))
        return code - self._docstring_lines

    @cached_property
    def words(self) -> list[tuple[int, str]]:
        """Line and text of every name and every string of the code; docstrings and comments are not code."""
        wanted = (tokenize.NAME, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
        return [
            (token.start[0], token.string)
            for token in self._tokens
            if token.type in wanted and token.start[0] not in self._docstring_lines
        ]

    @cached_property
    def _tokens(self) -> list[tokenize.TokenInfo]:
        return list(tokenize.generate_tokens(io.StringIO(self.text).readline))

    @cached_property
    def _docstring_lines(self) -> set[int]:
        lines: set[int] = set()
        for node in self.nodes:
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
                lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1) if first else ())
        return lines

    def _imports_of(self, node: ast.AST) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute(node.module or "", node.level)
            yield from (Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield Import(name.value, node.lineno)

    def _absolute(self, name: str, level: int) -> str:
        if level == 0:
            return name
        package = Path(self.path).parent.parts
        return ".".join([*package[: len(package) - level + 1], *([name] if name else [])])


def modules(*folders: str) -> list[Module]:
    """The Python files below folders of the repository; folders that do not exist have none."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [Module(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _describe(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    known = node.args
    plain = [*known.posonlyargs, *known.args, *known.kwonlyargs, known.vararg, known.kwarg]
    arguments = [argument for argument in plain if argument is not None and argument.arg not in ("self", "cls")]
    unannotated = [argument.arg for argument in arguments if argument.annotation is None]
    if node.returns is None:
        unannotated.append("return")
    return Function(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1, tuple(unannotated))
