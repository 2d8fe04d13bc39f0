"""From a guide to a grammar that llguidance compiles. Text in, text out: knows special tokens, but no tokenizer.

Its dialect of Lark: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md. `%json` takes a schema where a
rule is expected, `<[7]>` is the special token 7, and a `[lazy]` rule ends as soon as it can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llguidance import LLMatcher, regex_to_lark

from python_backends.errors import InvalidInput
from python_backends.types import Guide

# One space, or a line break and indentation. Unbounded, an undecided model fills its whole answer with blanks.
_WHITESPACE = {"whitespace_pattern": r" |\n[ \t]{0,20}"}
_FIELD = "guided_decoding_guide"


def write_grammar(guide: Guide, specials: Mapping[str, int]) -> str:
    """llguidance's own form of `guide`; `specials` are special tokens by name. Raises InvalidInput."""
    try:
        if guide.kind == "structural_tag":
            return _StructuralTag(specials).grammar(guide.text)
        return _WRITERS[guide.kind](guide.text)
    except RecursionError as error:
        raise InvalidInput("it is nested too deeply", _FIELD) from error


def _json_object(text: str) -> str:
    return LLMatcher.grammar_from_json_schema(_schema({"type": "object"}))


def _json_schema(text: str) -> str:
    return LLMatcher.grammar_from_json_schema(_schema(_parse(text)))


def _regex(text: str) -> str:
    return LLMatcher.grammar_from_lark(f"start: {_pattern(text)}")


def _choice(text: str) -> str:
    choices = _parse(text)
    if not isinstance(choices, list) or not choices or not all(isinstance(each, str) and each for each in choices):
        raise InvalidInput("a choice must be a JSON list of texts that are not empty", _FIELD)
    return LLMatcher.grammar_from_lark("start: " + " | ".join(map(_quoted, choices)))


_WRITERS: dict[str, Callable[[str], str]] = {
    "json": _json_object,
    "json_schema": _json_schema,
    "regex": _regex,
    "ebnf_grammar": LLMatcher.grammar_from_lark,
    "choice": _choice,
}


class _StructuralTag:
    """XGrammar's structural tags as Lark rules: https://xgrammar.mlc.ai/docs/structural_tag/structural_tag.html."""

    def __init__(self, specials: Mapping[str, int]) -> None:
        self._specials = specials
        self._special = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or r"(?!)")
        self._rules: list[str] = []
        self._formats: dict[str, Callable[[dict[str, Any]], str]] = {
            "const_string": lambda value: self._literal(_text(value, "value")),
            "json_schema": lambda value: "%json " + json.dumps(_schema(_get(value, "json_schema"))),
            "regex": lambda value: _pattern(_text(value, "pattern")),
            "any_text": lambda value: "TEXT",
            "sequence": lambda value: " ".join(map(self._format, _list(value, "elements"))),
            "or": lambda value: _any_of(map(self._format, _list(value, "elements"))),
            "tag": self._tag,
            "triggered_tags": self._triggered_tags,
        }

    def grammar(self, text: str) -> str:
        value = _parse(text)
        if not isinstance(value, dict) or value.get("type") != "structural_tag" or "format" not in value:
            raise InvalidInput('must be {"type": "structural_tag", "format": {...}}', _FIELD)
        start = self._format(value["format"])
        return LLMatcher.grammar_from_lark("\n".join([f"start: {start}", *self._rules, r"TEXT: /(.|\n)*/"]))

    def _format(self, value: Any) -> str:
        kind = value.get("type") if isinstance(value, dict) else value
        if not isinstance(kind, str) or kind not in self._formats:
            raise InvalidInput(f"format type must be one of {', '.join(self._formats)}, got {kind!r:.40}", _FIELD)
        return f"({self._formats[kind](value)})"

    def _tag(self, value: dict[str, Any]) -> str:
        begin, content, end = _text(value, "begin"), _get(value, "content"), _text(value, "end")
        return f"{self._literal(begin)} {self._content(content, end)}"

    def _content(self, content: Any, end: str) -> str:
        if isinstance(content, dict) and content.get("type") == "any_text":
            return self._until(end) if end else "TEXT"
        return f"{self._format(content)} {self._literal(end)}"

    def _triggered_tags(self, value: dict[str, Any]) -> str:
        """Free text in which a trigger begins a tag; with at_least_one a tag comes first."""
        bodies: dict[str, list[str]] = {}
        triggers = _list(value, "triggers")
        for tag in _list(value, "tags"):
            trigger = _trigger_of(_text(tag, "begin"), triggers)
            bodies.setdefault(trigger, []).append(self._tag({**tag, "begin": tag["begin"][len(trigger) :]}))
        after = {trigger: _any_of(found) for trigger, found in bodies.items()}
        later = _any_of(f"{self._until(trigger)} {body}" for trigger, body in after.items())
        first = _any_of(f"{self._literal(trigger)} {body}" for trigger, body in after.items())
        at_least_one, stop = bool(value.get("at_least_one")), bool(value.get("stop_after_first"))
        if stop:
            return first if at_least_one else f"{later} | TEXT"
        return f"{first if at_least_one else ''} {later}* TEXT"

    def _until(self, text: str) -> str:
        """Free text up to the first `text`, and `text` itself."""
        head, rest = self._split(text)[0], self._split(text)[1:]
        if head.startswith("<["):
            return " ".join(["TEXT", head, *rest])
        name = f"until_{len(self._rules)}"
        self._rules.append(f"{name}[lazy]: TEXT {head}")
        return " ".join([name, *rest])

    def _literal(self, text: str) -> str:
        return " ".join(self._split(text))

    def _split(self, text: str) -> list[str]:
        """`text` in pieces of the grammar: quoted text, and special tokens by number."""
        pieces = re.split(f"({self._special.pattern})", text)
        return [
            f"<[{self._specials[piece]}]>" if place % 2 else _quoted(piece)
            for place, piece in enumerate(pieces)
            if piece
        ]


def _any_of(alternatives: Iterable[str]) -> str:
    return f"({' | '.join(alternatives)})"


def _trigger_of(begin: str, triggers: list[Any]) -> str:
    found = [each for each in triggers if isinstance(each, str) and each and begin.startswith(each)]
    if len(found) != 1:
        raise InvalidInput(f"the tag that begins with {begin!r:.40} must begin with exactly one trigger", _FIELD)
    return found[0]


def _schema(value: Any) -> dict[str, Any]:
    """A JSON schema as an object, with our blanks unless it brings its own; `true` is the schema of everything."""
    known = {} if value is True else value
    if not isinstance(known, dict):
        raise InvalidInput(f"a JSON schema must be an object, got {json.dumps(value):.40}", _FIELD)
    return {"x-guidance": _WHITESPACE, **known}


def _pattern(regex: str) -> str:
    """The library's patterns match whole texts and know no anchors; `\\d` and `\\w` are ASCII, as in a JSON schema."""
    bare = re.sub(r"^\^|(?<!\\)\$$", "", regex)
    # The group keeps an empty pattern from becoming a comment.
    return f"/(?:{regex_to_lark(bare, 'dw')})/"


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"not valid JSON: {error}", _FIELD) from error


def _get(value: Any, key: str) -> Any:
    if not isinstance(value, dict) or key not in value:
        raise InvalidInput(f"{key!r} is missing in {json.dumps(value):.60}", _FIELD)
    return value[key]


def _text(value: Any, key: str) -> str:
    found = _get(value, key)
    if not isinstance(found, str):
        raise InvalidInput(f"{key!r} must be text, got {json.dumps(found):.40}", _FIELD)
    return found


def _list(value: Any, key: str) -> list[Any]:
    found = _get(value, key)
    if not isinstance(found, list) or not found:
        raise InvalidInput(f"{key!r} must be a list that is not empty, got {json.dumps(found):.40}", _FIELD)
    return found


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
