"""Which replica a request belongs to: evenly, always the same, and never the one that has too much to do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.affinity import HEAD_CHARS, HEAD_TOKENS, conversation_key, in_order, most_open
from gateway.schemas.messages import ChatMessage, Limits, read_prompt

ADDRESSES = [f"10.0.0.{i}:8001" for i in range(5)]
SYSTEM = {"role": "system", "content": "Be brief."}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
OTHER_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAB"}}


def asks(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content) if len(content) > 1 else content[0]}


def chat_key(*messages: dict[str, Any], entry: str = "llm") -> bytes:
    wire = read_prompt([ChatMessage(**message) for message in messages], Limits(9, 99), Limits(9, 99))
    key = conversation_key(entry, {"messages": wire.messages, "image": wire.images, "temperature": len(messages) / 10})
    assert key is not None
    return key


def test_all_turns_of_a_conversation_have_one_key() -> None:
    first = [SYSTEM, asks({"type": "text", "text": "What is this?"}, IMAGE)]
    more = [{"role": "assistant", "content": "A cat."}, asks({"type": "text", "text": "And this?"}, OTHER_IMAGE)]
    assert chat_key(*first) == chat_key(*first, *more) == chat_key(*first, *more, asks("Sure?"))


def test_other_conversations_have_other_keys() -> None:
    text = {"type": "text", "text": "Hello"}
    keys = [
        chat_key(SYSTEM, asks("Hello")),
        chat_key(SYSTEM, asks("Hello!")),
        chat_key(asks("Hello")),
        chat_key(SYSTEM, asks("Hello"), entry="other"),
        chat_key(SYSTEM, asks(text, IMAGE)),
        chat_key(SYSTEM, asks(text, OTHER_IMAGE)),
        chat_key(SYSTEM),
    ]
    assert len(set(keys)) == len(keys)


def test_a_finished_prompt_is_known_by_its_head() -> None:
    long, ids = "x" * HEAD_CHARS, list(range(HEAD_TOKENS))
    assert conversation_key("llm", {"text_input": long}) == conversation_key("llm", {"text_input": long + "more"})
    assert conversation_key("llm", {"text_input": "Hello"}) != conversation_key("llm", {"text_input": "Hello, you"})
    assert conversation_key("llm", {"input_ids": ids}) == conversation_key("llm", {"input_ids": [*ids, 7]})
    assert conversation_key("llm", {"input_ids": ids}) != conversation_key("llm", {"input_ids": ids[:-1]})
    assert conversation_key("whisper", {"audio": b"RIFF"}) is None


def test_another_process_finds_the_same() -> None:
    """Gateways agree without talking: written down, so that a change of the hash is seen."""
    key = conversation_key("llm", {"text_input": "Hello"})
    assert key is not None and key.hex() == "c08787970c0f4802be2e3b7c051f3191"
    assert [address[7] for address in in_order(ADDRESSES, key)] == ["0", "3", "1", "2", "4"]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_unrelated_requests_spread_evenly(count: int) -> None:
    keys = [chat_key(SYSTEM, asks(f"Question {i}")) for i in range(2000)]
    found = Counter(in_order(ADDRESSES[:count], key)[0] for key in keys)
    assert all(abs(found[address] * count / 2000 - 1) < 0.1 for address in ADDRESSES[:count]), found


def test_only_what_belongs_to_a_new_replica_moves() -> None:
    keys = [orjson.dumps(i) for i in range(1000)]
    moved = [key for key in keys if in_order(ADDRESSES, key)[0] != in_order(ADDRESSES[:4], key)[0]]
    assert {in_order(ADDRESSES, key)[0] for key in moved} == {ADDRESSES[4]}
    assert 150 < len(moved) < 250


@given(some.sets(some.text(max_size=30), min_size=2), some.binary(min_size=1, max_size=16))
def test_when_one_goes_the_others_keep_their_order(addresses: set[str], key: bytes) -> None:
    ordered = in_order(addresses, key)
    assert sorted(ordered) == sorted(addresses)
    for gone in addresses:
        assert in_order(addresses - {gone}, key) == [address for address in ordered if address != gone]


@given(some.lists(some.integers(0, 300), min_size=1, max_size=20))
def test_there_is_room_somewhere_and_not_too_much(num_open: list[int]) -> None:
    limit, mean = most_open(num_open), (sum(num_open) + 1) / len(num_open)
    assert min(num_open) < limit
    assert 1.25 * mean + 2 <= limit < 1.25 * mean + 3


def test_one_question_of_everybody_goes_to_several() -> None:
    num_open = dict.fromkeys(ADDRESSES, 0)
    for _ in range(200):
        limit = most_open(num_open.values())
        num_open[next(address for address in in_order(ADDRESSES, b"same") if num_open[address] < limit)] += 1
    assert sorted(num_open.values()) == [0, 44, 52, 52, 52]
