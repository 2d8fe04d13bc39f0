"""Guided decoding: whatever the logits say, the text follows the guide. Random logits stand for the model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from python_backends.errors import BackendError, InternalFault, InvalidInput
from python_backends.torch_engine.guided import Guidance
from python_backends.torch_engine.progress import next_event
from python_backends.torch_engine.sampler import Draw, Sampler
from python_backends.torch_engine.sequence import Sequence
from python_backends.types import FinishReason, GenerationRequest, Guide, GuideKind, SamplingParams, TokenEvent
from tests.backends.tiny import byte_level_tokenizer, save_tokenizer

TOKENIZER = byte_level_tokenizer()
EOS = frozenset({TOKENIZER.token_to_id("<|im_end|>"), TOKENIZER.token_to_id("<|endoftext|>")})
# As real checkpoints do, the head has more rows than the tokenizer has tokens.
VOCAB = TOKENIZER.get_vocab_size() + 19

OBJECT = {"type": "object", "additionalProperties": False}
NAME = {"type": "string", "maxLength": 6}
SCHEMAS: list[Any] = [
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer"},
    {"type": "integer", "minimum": -3, "maximum": 17},
    {"type": "integer", "multipleOf": 5, "minimum": 0},
    {"type": "number"},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    NAME,
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[a-f0-9]{4}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"enum": ["red", "green", 3, None, {"a": [1]}]},
    {"const": {"fixed": [1, "two"]}},
    {"type": ["integer", "null"]},
    {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "null"}, "maxItems": 2}]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "integer"}, NAME], "items": False, "minItems": 2},
    {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}, "maxItems": 2},
    OBJECT,
    {**OBJECT, "properties": {"name": NAME, "age": {"type": "integer"}}, "required": ["name", "age"]},
    {**OBJECT, "properties": {"name": NAME, "age": {"type": "integer"}}, "required": ["age"]},
    {**OBJECT, "properties": {"größe 🦜": {"type": "boolean"}}, "required": ["größe 🦜"]},
    {**OBJECT, "properties": {"in": {**OBJECT, "properties": {"x": {"type": "null"}}, "required": ["x"]}}},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 1},
    {**OBJECT, "patternProperties": {"^k[0-9]$": {"type": "integer", "maximum": 9, "minimum": 0}}},
    {"$defs": {"leaf": {"enum": ["l"]}}, "type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 3},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
    {"oneOf": [{"type": "integer", "maximum": 9, "minimum": 0}, {"type": "null"}]},
    {**OBJECT, "properties": {"kind": {"const": "a"}, "list": {"type": "array", "maxItems": 2, "items": NAME}}},
]
PATTERNS = [
    "[ab]{3,5}",
    "^v[0-9]+\\.[0-9]{2}$",
    "(ja|nein)?",
    "^$",
    "größe: [0-9]+ 🦜",
    '"[^"]{0,4}"/x',
    "(?i)stop|the (quick|brown) fox",
    "\\d\\d/\\w{2}\\s-",
]
CHOICES = [["yes"], ["yes", "yes and no", "no"], ["größe\n", '"quoted" \\ text', "🦜"], ["the dog", "the", "t"]]


def silent(event: TokenEvent) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def guidance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guidance]:
    guidance = Guidance(str(save_tokenizer(tmp_path_factory.mktemp("guided"))), False, VOCAB, EOS)
    yield guidance
    guidance.close()


class Walk:
    """One guided sequence and the text it has said so far."""

    def __init__(self, guidance: Guidance, guide: Guide, seed: int, **sampling: Any) -> None:
        params = SamplingParams(guide=guide, seed=seed, **{"temperature": 1.5, **sampling})
        request = GenerationRequest(seed, (5,), params)
        self.sequence = Sequence(request, silent, [5], 300, constraint=guidance.compile(guide))
        self.events: list[TokenEvent] = []

    @property
    def text(self) -> str:
        return TOKENIZER.decode(
            [each.token_id for each in self.events if each.token_id is not None and each.stop_token_id is None],
            skip_special_tokens=False,
        )

    @property
    def finish(self) -> FinishReason | None:
        return self.events[-1].finish_reason if self.events else None


def go(guidance: Guidance, walks: list[Walk], spread: float = 2.0) -> None:
    """All walks to their end, in one batch; every step has new random logits."""
    sampler, chance = Sampler(EOS), torch.Generator().manual_seed(1)
    while going := [walk for walk in walks if walk.finish is None]:
        sequences = [walk.sequence for walk in going]
        masks = guidance.begin(sequences)
        logits = torch.randn(len(going), VOCAB, generator=chance) * spread
        for walk, draw in zip(going, sampler.draw(logits, sequences, masks), strict=True):
            walk.events.append(next_event(walk.sequence, draw, EOS))


def says(guidance: Guidance, guide: Guide, text: str) -> tuple[bool, bool]:
    """Whether the guide lets a text through token by token, and whether it may end there."""
    matcher = guidance.compile(guide).matcher
    taken = all(matcher.consume_token(token) for token in TOKENIZER.encode(text).ids)
    return taken, taken and matcher.is_accepting()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_every_text_satisfies_its_schema(guidance: Guidance, temperature: float) -> None:
    walks = [
        Walk(guidance, Guide("json_schema", json.dumps(schema)), seed, temperature=temperature)
        for seed, schema in enumerate(SCHEMAS)
    ]
    go(guidance, walks)
    for walk, schema in zip(walks, SCHEMAS, strict=True):
        assert walk.finish is FinishReason.STOP, f"{schema}: {walk.text}"
        jsonschema.Draft202012Validator(schema).validate(json.loads(walk.text))
    assert len({walk.text for walk in walks}) > 20


def test_json_is_any_object(guidance: Guidance) -> None:
    walks = [Walk(guidance, Guide("json"), seed) for seed in range(6)]
    go(guidance, walks, spread=1.0)
    over = [walk for walk in walks if walk.finish is FinishReason.STOP]
    assert len(over) >= 3
    assert all(isinstance(json.loads(walk.text), dict) for walk in over)


def test_every_text_matches_its_pattern(guidance: Guidance) -> None:
    walks = [Walk(guidance, Guide("regex", pattern), seed) for seed, pattern in enumerate(PATTERNS)]
    go(guidance, walks)
    for walk, pattern in zip(walks, PATTERNS, strict=True):
        assert re.fullmatch(pattern, walk.text), f"{pattern}: {walk.text!r}"


def test_every_text_is_one_of_the_choices(guidance: Guidance) -> None:
    walks = [Walk(guidance, Guide("choice", json.dumps(CHOICES[seed % 4])), seed) for seed in range(16)]
    go(guidance, walks)
    for seed, walk in enumerate(walks):
        assert walk.text in CHOICES[seed % 4]
    assert len({walk.text for walk in walks}) >= 4


def test_a_grammar_of_ones_own(guidance: Guidance) -> None:
    lark = 'start: term ("+" term){1,3}\nterm: NUMBER | "(" term "-" term ")"\nNUMBER: /[1-9][0-9]?/'
    walks = [Walk(guidance, Guide("ebnf_grammar", lark), seed) for seed in range(4)]
    go(guidance, walks)
    for walk in walks:
        if walk.finish is FinishReason.STOP:
            assert isinstance(eval(walk.text, {"__builtins__": {}}), int)
    assert any(walk.finish is FinishReason.STOP for walk in walks)


def test_blanks_are_bounded(guidance: Guidance) -> None:
    guide = Guide("json_schema", '{"type": "array", "items": {"type": "integer"}}')
    assert says(guidance, guide, "[1, 2]") == says(guidance, guide, "[\n  1\n]") == (True, True)
    assert says(guidance, guide, "[1,  2]") == says(guidance, guide, "[\n\n1]") == (False, False)
    own = Guide("json_schema", '{"type": "array", "x-guidance": {"whitespace_flexible": false}}')
    assert says(guidance, own, "[1, 2]")[0] is False


# Structural tags

CALL = {
    "begin": "<call>\n",
    "content": {"type": "json_schema", "json_schema": {"const": {"n": 1}}},
    "end": "\n</call>",
}
SAID = '<call>\n{"n": 1}\n</call>'


def triggered(**more: Any) -> Guide:
    tags = {"type": "triggered_tags", "triggers": ["<call>"], "tags": [CALL], **more}
    return Guide("structural_tag", json.dumps({"type": "structural_tag", "format": tags}))


def formatted(**value: Any) -> Guide:
    return Guide("structural_tag", json.dumps({"type": "structural_tag", "format": value}))


@pytest.mark.parametrize(
    ("at_least_one", "stop_after_first", "whole"),
    [
        (False, False, ["hi", SAID, f"hi {SAID}", f"{SAID} and {SAID}."]),
        (False, True, ["hi", SAID, f"hi {SAID}"]),
        (True, False, [SAID, f"{SAID} and {SAID}."]),
        (True, True, [SAID]),
    ],
)
def test_triggered_tags(guidance: Guidance, at_least_one: bool, stop_after_first: bool, whole: list[str]) -> None:
    guide = triggered(at_least_one=at_least_one, stop_after_first=stop_after_first)
    for text in ["hi", SAID, f"hi {SAID}", f"{SAID} and {SAID}."]:
        assert says(guidance, guide, text) == ((True, True) if text in whole else (False, False)), text
    assert says(guidance, guide, "<call>{}") == (False, False)


def test_tags_that_share_a_trigger(guidance: Guidance) -> None:
    digits = {"begin": "<f=b>", "content": {"type": "regex", "pattern": "^[0-9/]+$"}, "end": "</f>"}
    tags = [{**CALL, "begin": "<f=a>", "end": "</f>"}, digits]
    guide = triggered(triggers=["<f="], tags=tags)
    assert says(guidance, guide, 'a <f=a>{"n": 1}</f> b <f=b>1/2</f> c') == (True, True)
    assert says(guidance, guide, "<f=c") == (False, False)


def test_a_trigger_that_is_a_special_token(guidance: Guidance) -> None:
    tag = {**CALL, "begin": "<|vision_start|>x", "end": "<|vision_end|>"}
    guide = triggered(triggers=["<|vision_start|>"], tags=[tag])
    assert says(guidance, guide, 'a <|vision_start|>x{"n": 1}<|vision_end|> b') == (True, True)
    assert says(guidance, guide, "<|vision_start|>y") == says(guidance, guide, "<|image_pad|>") == (False, False)


def test_a_sequence_of_formats(guidance: Guidance) -> None:
    thought = {"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"}
    answer = [{"type": "const_string", "value": "no"}, {"type": "json_schema", "json_schema": {"type": "boolean"}}]
    guide = formatted(type="sequence", elements=[thought, {"type": "or", "elements": answer}])
    for text in ("<think>a</think>no", "<think>so\n</think>true"):
        assert says(guidance, guide, text) == (True, True)
    assert says(guidance, guide, "<think>a</think>maybe") == (False, False)


# Guides that are wrong


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("regex", "(", "unclosed group"),
        ("ebnf_grammar", "start: nobody", "unknown name"),
        ("json_schema", "{", "not valid JSON"),
        ("json_schema", "[1]", "must be an object, got"),
        ("json_schema", '{"type": "nope"}', "nope"),
        ("json_schema", '{"not": {"type": "null"}}', "not"),
        ("json_schema", '{"enum": ["\\ud800"]}', "ud800"),
        ("json_schema", '{"items":' * 300 + "{}" + "}" * 300, "recursion limit"),
        ("json_schema", '{"items":' * 90000 + "{}" + "}" * 90000, "nested too deeply"),
        ("choice", "[]", "a JSON list of texts"),
        ("choice", '["a", 1]', "a JSON list of texts"),
        ("structural_tag", "[]", "must be"),
        ("structural_tag", '{"type": "structural_tag", "format": {"type": "poem"}}', "format type must be one of"),
        ("structural_tag", '{"type": "structural_tag", "format": {"type": "or", "elements": []}}', "not empty"),
        ("structural_tag", '{"type": "structural_tag", "format": {"type": "regex"}}', "'pattern' is missing"),
    ],
)
def test_a_wrong_guide_is_refused_by_name(guidance: Guidance, kind: GuideKind, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        guidance.compile(Guide(kind, text))
    assert caught.value.field == "guided_decoding_guide"


@pytest.mark.parametrize("change", [{"triggers": ["<x>"]}, {"triggers": ["<call>", "<c"]}, {"tags": [3]}, {"tags": []}])
def test_tags_that_do_not_fit_their_triggers_are_refused(guidance: Guidance, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        guidance.compile(triggered(**change))
    assert caught.value.field == "guided_decoding_guide"


def test_unknown_kinds_and_empty_guides_are_refused() -> None:
    with pytest.raises(InvalidInput, match="must be one of json, ") as caught:
        Guide("poem", "x")  # type: ignore[arg-type]
    assert caught.value.field == "guided_decoding_guide_type"
    with pytest.raises(InvalidInput, match="is empty"):
        Guide("regex")


# The end, and what else bears on it


def test_a_whole_text_ends_without_an_end_token(guidance: Guidance) -> None:
    walk = Walk(guidance, Guide("choice", '["dog"]'), 0, ignore_eos=True, min_tokens=50)
    go(guidance, [walk])
    assert (walk.text, walk.finish, walk.events[-1].stop_token_id) == ("dog", FinishReason.STOP, None)


def test_an_end_token_ends_also_who_ignores_it(guidance: Guidance) -> None:
    walk = Walk(guidance, Guide("regex", "a|ab"), 0, ignore_eos=True, logit_bias=dict.fromkeys(EOS, 100.0))
    go(guidance, [walk])
    assert (walk.text, walk.finish) == ("a", FinishReason.STOP)
    assert walk.events[-1].stop_token_id in EOS


def test_min_tokens_hold_while_the_grammar_has_more_to_say(guidance: Guidance) -> None:
    walk = Walk(guidance, Guide("regex", "a*"), 0, min_tokens=5, logit_bias=dict.fromkeys(EOS, 100.0))
    go(guidance, [walk])
    assert walk.finish is FinishReason.STOP and len(walk.events) == 6


def test_bans_that_contradict_the_grammar_end_the_request(guidance: Guidance) -> None:
    walk = Walk(guidance, Guide("regex", "a+"), 0, bad_words_ids=((TOKENIZER.token_to_id("a"),),))
    with pytest.raises(BackendError, match="no token to choose") as caught:
        go(guidance, [walk])
    assert caught.value.field == "guided_decoding_guide"


def test_a_grammar_that_cannot_go_on_ends_its_request_alone(guidance: Guidance) -> None:
    broken, fine = (Walk(guidance, Guide("regex", "a+"), seed).sequence for seed in (0, 1))
    assert broken.constraint is not None
    with pytest.raises(InternalFault, match="does not take token"):
        broken.constraint.accept(TOKENIZER.token_to_id("b"))
    sequences = [broken, fine]
    bad, good = Sampler(EOS).draw(torch.zeros(2, VOCAB), sequences, guidance.begin(sequences))
    assert isinstance(bad, InvalidInput) and "cannot be followed any further" in str(bad)
    assert isinstance(good, Draw)


def test_masks_are_for_the_guided_alone_and_forks_go_their_own_way(guidance: Guidance) -> None:
    parent = Walk(guidance, Guide("choice", '["yes", "no"]'), 0).sequence
    free = Sequence(GenerationRequest(7, (5,), SamplingParams()), silent, [5], 9)
    masks = guidance.begin([free, parent])
    fork = parent.fork(1)
    assert masks.of(free) is None
    first, same = masks.of(parent), masks.of(fork)
    assert first is same and first is not None and first.error is None
    assert {TOKENIZER.decode([token])[0] for token in np.flatnonzero(first.tokens)} == {"y", "n"}
    next_event(parent, Draw(TOKENIZER.token_to_id("n")), EOS)
    next_event(fork, Draw(TOKENIZER.token_to_id("y")), EOS)
    masks = guidance.begin([parent, fork])
    starts = [
        TOKENIZER.decode(np.flatnonzero(found.tokens)[:1]) for each in (parent, fork) if (found := masks.of(each))
    ]
    assert starts == ["o", "e"]
    assert guidance.begin([free]).of(free) is None


def test_padding_and_special_tokens_are_never_allowed(guidance: Guidance) -> None:
    walk = Walk(guidance, Guide("regex", "(.|\\n)*"), 0)
    allowed = guidance.begin([walk.sequence]).of(walk.sequence)
    assert allowed is not None
    assert not allowed.tokens[TOKENIZER.get_vocab_size() :].any()
    assert not allowed.tokens[TOKENIZER.token_to_id("<|im_start|>")]
    assert allowed.tokens[sorted(EOS)].all()
