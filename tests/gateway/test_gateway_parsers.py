"""Tool calls and reasoning in text: what is found, and that it does not matter where the text was cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.deltas import ARGUMENTS, CALL, CONTENT, REASONING, Delta, joined
from gateway.reasoning import ThinkSplitter
from gateway.tools import PARSERS

C, A, P, R = CALL, ARGUMENTS, CONTENT, REASONING


def parse(name: str, pieces: Iterable[str]) -> list[tuple[str, str]]:
    """What a parser says to a text in pieces, neighbours joined as a client would."""
    parser = PARSERS[name]()
    said = [delta for piece in pieces for delta in parser.push(piece)]
    return [tuple(delta) for delta in joined([*said, *parser.flush()])]  # type: ignore[misc]


def think(pieces: Iterable[str]) -> list[tuple[str, str]]:
    splitter = ThinkSplitter()
    said = [delta for piece in pieces for delta in splitter.push(piece)]
    return [tuple(delta) for delta in joined([*said, *splitter.push("", final=True)])]  # type: ignore[misc]


# Deeper than any parser of JSON goes.
DEEP = "[" * 1500 + "]" * 1500

HERMES = [
    ("just text ", [(P, "just text ")]),
    ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [(C, "f"), (A, '{"a": 1}')]),
    (
        'Let me see.\n<tool_call>{"name":"f","arguments":{"a":"}<tool_call>\\""}}</tool_call>\n\n'
        '<tool_call>{"name":"g","arguments":{}}</tool_call>\n',
        [(P, "Let me see."), (C, "f"), (A, '{"a":"}<tool_call>\\""}'), (C, "g"), (A, "{}")],
    ),
    ('<tool_call>{"arguments": {"a": [1, "é"]}, "name": "f"}</tool_call>', [(C, "f"), (A, '{"a":[1,"é"]}')]),
    ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [(C, "f"), (A, '{"a": 1}')]),
    ('<tool_call>{"name": "f"}</tool_call> done', [(C, "f"), (A, "{}"), (P, " done")]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', [(C, "f"), (A, '{"a": 1}')]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1}}', [(C, "f"), (A, '{"a": 1}')]),
    ('<tool_call>{"name": "f", "arguments": {"a": tr', [(C, "f"), (A, '{"a": tr')]),
    ('<tool_call>{"name": "f", "arguments": {a: §}}</tool_call>ok', [(C, "f"), (A, "{a: §}}"), (P, "ok")]),
    ("<tool_call>not json</tool_call>", [(P, "<tool_call>not json</tool_call>")]),
    ('a <tool_call>{"city": 1}</tool_call>', [(P, 'a <tool_call>{"city": 1}</tool_call>')]),
    ('<tool_call>{"name": <', [(P, '<tool_call>{"name": <')]),
    ('<tool_call> <tool_call>{"name":"f","arguments":{}}', [(P, "<tool_call>"), (C, "f"), (A, "{}")]),
    ('x <tool_call>\n{"nam', [(P, 'x <tool_call>\n{"nam')]),
    ("a < b <tool", [(P, "a < b <tool")]),
    (f'<tool_call>{{"id": {DEEP}}}', [(P, f'<tool_call>{{"id": {DEEP}}}')]),
]
LLAMA = [
    ("plain {", [(P, "plain {")]),
    ('{"name": "f", "parameters": {"a": "x"}}', [(C, "f"), (A, '{"a": "x"}')]),
    ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}', [(C, "f"), (A, '{"a": 1}')]),
    (
        '{"type": "function", "name": "f", "parameters": {}}; {"name": "g", "arguments": {"b": 2}} ',
        [(C, "f"), (A, "{}"), (C, "g"), (A, '{"b": 2}')],
    ),
    ('{"city": "Rome", "name": 1}', [(P, '{"city": "Rome", "name": 1}')]),
    ('{"name": "Bob", "age": 3}', [(P, '{"name": "Bob", "age": 3}')]),
    ('<|python_tag|>search.call(query="x")', [(P, '<|python_tag|>search.call(query="x")')]),
    ('{"name": "f", "parameters": {}} and more', [(C, "f"), (A, "{}"), (P, " and more")]),
    ("<|py", [(P, "<|py")]),
    ("  \n", [(P, "  \n")]),
]
MISTRAL = [
    ("hello", [(P, "hello")]),
    (
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
        [(C, "f"), (A, '{"a": 1}'), (C, "g"), (A, "{}")],
    ),
    ('[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]g{}', [(C, "f"), (A, '{"a": 1}'), (C, "g"), (A, "{}")]),
    ('Hm. [TOOL_CALLS]f[ARGS]{"a": 1}', [(P, "Hm."), (C, "f"), (A, '{"a": 1}')]),
    ('[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', [(C, "f"), (A, '{"a": 1}')]),
    ("[TOOL_CALLS]", [(P, "[TOOL_CALLS]")]),
    ("[TOOL_CALLS][]", [(P, "[TOOL_CALLS][]")]),
    ("[TOOL_CALLS]what? {}", [(P, "[TOOL_CALLS]what? {}")]),
    ('[TOOL_CALLS]{"name": "f", "arguments": {}}', [(C, "f"), (A, "{}")]),
    ('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, oops]', [(C, "f"), (A, '{"a": 1}'), (P, ", oops]")]),
]
TEXTS = [(name, text) for name, cases in zip(PARSERS, (HERMES, LLAMA, MISTRAL), strict=True) for text, _ in cases]

THINKING = [
    ("<think>\nso\n</think>\n\nyes", [(R, "so"), (P, "yes")]),
    ("so</think>yes </think>", [(R, "so"), (P, "yes </think>")]),
    ("\n<think>a < b</thi", [(R, "a < b</thi")]),
    ("<think></think>yes", [(P, "yes")]),
    ("never ends ", [(R, "never ends ")]),
    ("<thin", [(R, "<thin")]),
]


@pytest.mark.parametrize(("text", "said"), HERMES)
def test_hermes(text: str, said: list[tuple[str, str]]) -> None:
    assert parse("hermes", [text]) == said


@pytest.mark.parametrize(("text", "said"), LLAMA)
def test_llama3_json(text: str, said: list[tuple[str, str]]) -> None:
    assert parse("llama3_json", [text]) == said


@pytest.mark.parametrize(("text", "said"), MISTRAL)
def test_mistral(text: str, said: list[tuple[str, str]]) -> None:
    assert parse("mistral", [text]) == said


@pytest.mark.parametrize(("text", "said"), THINKING)
def test_thinking(text: str, said: list[tuple[str, str]]) -> None:
    assert think([text]) == said


@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_one_character_at_a_time(name: str, text: str) -> None:
    assert parse(name, text) == parse(name, [text])
    for cut in range(min(len(text), 300)):
        assert parse(name, [text[:cut], text[cut:]]) == parse(name, [text])


# Alphabets in which marks, brackets and strings meet by chance.
MARKS = ["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", "<", "</"]
KEYS = ['{"name": "f", "arguments": ', '{"name":', '"f"', '"arguments":', '"parameters":']
WORDS = st.sampled_from([*MARKS, *KEYS, *'{}[]",;: \\\na1é'])


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    text = "".join(draw(st.lists(WORDS, max_size=14)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    return text, [text[start:end] for start, end in pairwise(edges)]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(list(PARSERS)), cut_texts())
def test_where_the_text_is_cut_does_not_matter(name: str, cut: tuple[str, list[str]]) -> None:
    text, pieces = cut
    assert parse(name, pieces) == parse(name, [text])


@settings(max_examples=200, deadline=None)
@given(cut_texts())
def test_where_the_thinking_is_cut_does_not_matter(cut: tuple[str, list[str]]) -> None:
    text, pieces = cut
    assert think(pieces) == think([text])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(PARSERS)), cut_texts())
def test_text_without_calls_is_kept_to_the_letter(name: str, cut: tuple[str, list[str]]) -> None:
    text, pieces = cut
    said = parse(name, pieces)
    if CALL not in [kind for kind, _ in said]:
        assert "".join(content for _, content in said) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(PARSERS)), st.lists(st.dictionaries(st.text(max_size=5), JSON), min_size=1, max_size=3))
def test_guided_calls_are_read_back(name: str, calls: list[dict[str, object]]) -> None:
    """What the guide makes a model write is what its parser reads."""
    form = PARSERS[name]
    texts = [json.dumps(arguments, ensure_ascii=False) for arguments in calls]
    text = "\n".join(form.call_begin.replace("NAME", "f_1") + arguments + form.call_end for arguments in texts)
    if name == "llama3_json":
        text = text.replace("}\n{", "}; {") if len(calls) > 1 else text
    assert form.call_begin.startswith(form.trigger)
    said = parse(name, text)
    assert [found for kind, found in said if kind == ARGUMENTS] == texts
    assert [found for kind, found in said if kind == CALL] == ["f_1"] * len(texts)


def test_arguments_are_passed_on_while_they_are_written() -> None:
    parser = PARSERS["hermes"]()
    pieces = ["<tool_call>\n", '{"name": "f", ', '"arguments": {"a', '": 1', "}", "}\n</tool_call>"]
    assert [parser.push(piece) for piece in pieces] == [
        [],
        [],
        [Delta(CALL, "f"), Delta(ARGUMENTS, '{"a')],
        [Delta(ARGUMENTS, '": 1')],
        [Delta(ARGUMENTS, "}")],
        [],
    ]
    assert repr(parser) == "<HermesParser in _outside, 0 characters held>"


def test_ids_have_the_form_that_the_template_takes() -> None:
    assert PARSERS["hermes"]().new_id().startswith("call_")
    assert len(PARSERS["mistral"]().new_id()) == 9
