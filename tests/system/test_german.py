"""German through the API: heard, reported, written down, and translated into English by the bundled speech model."""

from __future__ import annotations

import random
from typing import Any

import jiwer
import openai
import pytest

from tests.checkpoints import DEMO_WHISPER
from tests.examination.sentences import Pair, german
from tests.examination.words import read_vocabulary
from tests.speech import DIGITS, say, words

# The client calls its own way to translate deprecated; nothing in it replaces that.
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")]

MODEL = "demo-whisper"
NUMBER = 12
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
NUMBERS = {*DIGITS, *_TEENS.split()}


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """German sentences and what they mean in English."""
    drawn = german(random.Random(2026), read_vocabulary(DEMO_WHISPER / "vocabulary.txt"), 5 * NUMBER)
    # Mere numbers are German to this model, and it translates few of them.
    found = [(said, meant) for said, meant in drawn if NUMBERS.isdisjoint(meant.split())][:NUMBER]
    assert len(found) == NUMBER, drawn
    return found


def spoken(pair: Pair) -> Any:
    return ("speech.wav", say(pair[0], "de"))


def text_of(answer: Any) -> str:
    return " ".join(words(answer.text))


def test_german_is_heard_and_told(client: openai.OpenAI, pairs: list[Pair]) -> None:
    create = client.audio.transcriptions.create
    found: Any = [create(model=MODEL, file=spoken(pair), response_format="verbose_json") for pair in pairs]
    told = [answer.language for answer in found]
    assert told.count("german") >= NUMBER - 1, told
    truths = [" ".join(words(said)) for said, _ in pairs]
    assert jiwer.wer(truths, [text_of(answer) for answer in found]) <= 0.1, [answer.text for answer in found]


def test_the_language_may_be_given(client: openai.OpenAI, pairs: list[Pair]) -> None:
    create = client.audio.transcriptions.create
    for name in ("de", "german"):
        answer: Any = create(model=MODEL, file=spoken(pairs[0]), language=name, response_format="verbose_json")
        assert answer.language == "german"
        assert words(answer.text) == words(pairs[0][0])


def test_german_is_translated_into_english(client: openai.OpenAI, pairs: list[Pair]) -> None:
    create: Any = client.audio.translations.create
    found = [create(model=MODEL, file=spoken(pair), response_format="verbose_json") for pair in pairs]
    assert {answer.language for answer in found} == {"english"}
    truths = [" ".join(words(meant)) for _, meant in pairs]
    assert jiwer.wer(truths, [text_of(answer) for answer in found]) <= 0.1, [answer.text for answer in found]
    assert jiwer.wer([" ".join(words(said)) for said, _ in pairs], [text_of(answer) for answer in found]) > 0.5


def test_subtitles_of_a_translation(client: openai.OpenAI, pairs: list[Pair]) -> None:
    create: Any = client.audio.translations.create
    lines = str(create(model=MODEL, file=spoken(pairs[0]), response_format="srt")).splitlines()
    assert words(lines[2]) == words(pairs[0][1])


def test_english_stays_english(client: openai.OpenAI) -> None:
    answer: Any = client.audio.transcriptions.create(
        model=MODEL, file=("speech.wav", say("one two three four")), response_format="verbose_json"
    )
    assert answer.language == "english"
