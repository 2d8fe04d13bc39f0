"""Text in pieces: the pieces join to the whole, and no piece says too much."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from python_backends.llm.detokenizer import Detokenizer, token_bytes
from tests.backends.tiny import SPECIALS, byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
IDS = st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=40)
TEXT = st.text(st.sampled_from("ab 🙂é你stop\n"), max_size=30)


def pieces(ids: list[int], stop: tuple[str, ...] = (), include_stop: bool = False) -> tuple[list[str], str]:
    """What is sent after each token and at the end, up to a stop word; and that word."""
    detokenizer = Detokenizer(TOKENIZER, stop, include_stop)
    sent: list[str] = []
    for token_id in ids:
        new = detokenizer.push(token_id)
        sent.append(new.text)
        if new.stop:
            return sent, new.stop
    rest = detokenizer.flush()
    return [*sent, rest.text], rest.stop


def ids_of(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


@settings(max_examples=300, deadline=None)
@given(IDS)
def test_pieces_of_any_tokens_join_to_the_decoded_whole(ids: list[int]) -> None:
    assert "".join(pieces(ids)[0]) == TOKENIZER.decode(ids)


@given(IDS)
@settings(deadline=None)
def test_special_tokens_are_said_when_wanted(ids: list[int]) -> None:
    detokenizer = Detokenizer(TOKENIZER, skip_special_tokens=False)
    text = "".join([detokenizer.push(token_id).text for token_id in ids]) + detokenizer.flush().text
    assert text == TOKENIZER.decode(ids, skip_special_tokens=False)


@settings(max_examples=300, deadline=None)
@given(TEXT, st.lists(st.text(st.sampled_from("ab 🙂st"), min_size=1, max_size=4), max_size=3), st.booleans())
def test_nothing_behind_a_stop_word_is_said(text: str, stop: list[str], include: bool) -> None:
    sent, found = pieces(ids_of(text), tuple(stop), include)
    said = "".join(sent)
    assert text.startswith(said)
    if not found:
        assert said == text and not any(word in text for word in stop)
    elif include:
        assert said.endswith(found) and said.count(found) == 1
    else:
        assert text.startswith(said + found) and not any(word in said for word in stop)


@settings(max_examples=100, deadline=None)
@given(TEXT)
def test_no_piece_ends_inside_a_character(text: str) -> None:
    assert "\ufffd" not in "".join(pieces(ids_of(text))[0])


def test_an_emoji_over_several_tokens_comes_whole() -> None:
    ids = ids_of("🦜")
    assert len(ids) > 1
    assert pieces(ids)[0] == [""] * (len(ids) - 1) + ["🦜", ""]


def test_half_a_character_at_the_end_is_flushed() -> None:
    sent, _ = pieces(ids_of("a🦜")[:-1])
    assert sent[0] == "a" and sent[-1].startswith("\ufffd")


def test_a_stop_word_over_token_borders() -> None:
    ids = [TOKENIZER.token_to_id(letter) for letter in "abcdef"]
    assert pieces(ids, ("cde",)) == (["a", "b", "", "", ""], "cde")
    assert pieces(ids, ("cde",), include_stop=True) == (["a", "b", "", "", "cde"], "cde")


def test_text_that_only_began_like_a_stop_word_is_said() -> None:
    ids = [TOKENIZER.token_to_id(letter) for letter in "abcdx"]
    assert pieces(ids, ("cde", "bcx")) == (["a", "", "", "b", "cdx", ""], "")
    assert pieces(ids[:4], ("cde",)) == (["a", "b", "", "", "cd"], "")


def test_a_stop_word_that_only_the_flush_completes() -> None:
    half = ids_of("🦜")[:-1]
    assert pieces(half, ("\ufffd",))[1] == "\ufffd"


def test_the_earliest_of_several_stop_words_wins() -> None:
    assert pieces(ids_of("the lazy dog"), ("dog", "lazy"))[1] == "lazy"


def test_token_bytes_join_to_the_text_however_it_is_cut() -> None:
    text = "naïve 🦜 stop"
    assert b"".join(token_bytes(TOKENIZER, token_id) for token_id in ids_of(text)) == text.encode()
    assert token_bytes(TOKENIZER, TOKENIZER.token_to_id(SPECIALS[1])) == SPECIALS[1].encode()


@pytest.mark.parametrize(
    ("token", "expected"), [("<0xF0>", b"\xf0"), ("\u2581word", b"word"), ("\ufffd", b"\xef\xbf\xbd")]
)
def test_token_bytes_of_a_byte_fallback_tokenizer(token: str, expected: bytes) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<0xF0>": 0, "\u2581word": 1, "\ufffd": 2}, unk_token="\ufffd"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    assert token_bytes(tokenizer, tokenizer.token_to_id(token)) == expected


def test_stop_words_within_the_first_tokens_do_not_count() -> None:
    detokenizer = Detokenizer(TOKENIZER, ("bc", "e"), min_tokens=3)
    pieces = [detokenizer.push(TOKENIZER.token_to_id(letter)) for letter in "abcbde"]
    assert "".join(piece.text for piece in pieces) == "abcbd"
    assert [piece.stop for piece in pieces] == ["", "", "", "", "", "e"]


def test_a_stop_word_that_ends_after_the_first_tokens_counts() -> None:
    detokenizer = Detokenizer(TOKENIZER, ("bc",), min_tokens=2)
    pieces = [detokenizer.push(TOKENIZER.token_to_id(letter)) for letter in "abc"]
    assert [(piece.text, piece.stop) for piece in pieces] == [("a", ""), ("", ""), ("", "bc")]
