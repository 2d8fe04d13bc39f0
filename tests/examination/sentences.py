"""Sentences for the recordings, from templates over the words that the checkpoint is said to know.

Templates and slots are cut down to the known words first, so a template that asks for too much does no harm.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from string import Formatter

from tests.examination.words import ENGLISH, GERMAN, Vocabulary

# A digit after the name of a slot only tells two of them apart.
TEMPLATES = """
the {animal} is {adjective} and the {animal2} is {adjective2}
{who} {verb} the {color} {object}
{who} {verb} the {adjective} {animal}
my {family} and my {family2} {verb} the {place}
the {color} {object} is in the {place}
the {object} and the {object2} are {color}
please open the {object}
please bring the {food} and the {food2}
turn on the {device} in the {place}
turn off the {device} and close the {object}
set the alarm for {number} {unit}
wait {number} {unit}
on {day} {who} {move} in the {place}
today is {day} and tomorrow is {day2}
it is {weather} in {month}
{who} {move} and {who2} {move2}
{who} want to {move} with my {family}
where is the {color} {object}
where is my {family}
do you like {food} and {food2}
can you see the {animal} in the {place}
the {family} has {number} {color} eggs
{time} {who} need {number} eggs
is the {object} {adjective} or {adjective2}
no the {object} is not {color}
yes {who} have the {object}
call {digit} {digit2} {digit3} {digit4} {digit5}
{number} plus {number2} is {number3}
{number} and {number2}
{digit} {digit2} {digit3} {digit4}
{number} {number2} {number3}
my phone number is {digit} {digit2} {digit3} {digit4} {digit5} {digit6}
go to the {place}
stop the {device} now
good morning my {family}
{day} {month} {number}
"""
TRANSLATED = """
{noun} ist {adjective} = {Noun} is {Adjective}
{noun} und {noun2} = {Noun} and {Noun2}
{noun} ist {adjective} und {noun2} ist {adjective2} = {Noun} is {Adjective} and {Noun2} is {Adjective2}
ich {verb} {object} = i {Verb} {Object}
ich {verb} {object} und {object2} = i {Verb} {Object} and {Object2}
wo ist {noun} = where is {Noun}
heute ist {day} = today is {Day}
{number} {number2} {number3} = {Number} {Number2} {Number3}
{number} {number2} {number3} {number4} {number5} = {Number} {Number2} {Number3} {Number4} {Number5}
ist {noun} {adjective} = is {Noun} {Adjective}
"""
# Every so many sentences one is a mere list of words, so that each word has its chance.
_LIST_SHARE, _MAX_LIST = 0.15, 6
_SHORT_WORD = 2

Pair = tuple[str, str]


def english(dice: random.Random, vocabulary: Vocabulary, number: int) -> list[str]:
    """Different sentences of known words."""
    slots = {slot: _known(values, vocabulary["en"]) for slot, values in ENGLISH.items()}
    templates = [line for line in TEMPLATES.strip().splitlines() if _fits(line, slots, vocabulary["en"])]
    alone = unmistakable(vocabulary["en"])
    sentences: dict[str, None] = {}
    while len(sentences) < number:
        if dice.random() < _LIST_SHARE:
            sentence = " ".join(dice.sample(alone, dice.randint(2, _MAX_LIST)))
        else:
            sentence = _fill(dice, dice.choice(templates), slots)
        sentences[sentence] = None
    return list(sentences)


def german(dice: random.Random, vocabulary: Vocabulary, number: int) -> list[Pair]:
    """Different German sentences with their literal translations; fewer or none if the vocabulary is too small."""
    slots = {slot: [pair for pair in pairs if _both_known(pair, vocabulary)] for slot, pairs in GERMAN.items()}
    templates = [
        line
        for line in TRANSLATED.strip().splitlines()
        if _fits(line.split(" = ")[0], slots, vocabulary["de"]) and _is_known(_plain(line), vocabulary["en"])
    ]
    # A small vocabulary has few different sentences, so that the number of tries is bounded.
    tries = range(20 * number if templates else 0)
    sentences = dict.fromkeys(_fill_both(dice, dice.choice(templates), slots) for _ in tries)
    return list(sentences)[:number]


def unmistakable(words_of_language: Iterable[str]) -> list[str]:
    """The English words that sound like no other of them, by the synthesiser's own phonemes."""
    listed = sorted(words_of_language)
    command = ["espeak-ng", "-q", "-x", "-v", "en-us"]
    spoken = subprocess.run(command, input="\n".join(listed), text=True, capture_output=True, check=True).stdout
    sounds = [line.strip() for line in spoken.splitlines() if line.strip()]
    assert len(sounds) == len(listed), "espeak-ng answered another number of lines"
    common = Counter(sounds)
    return [word for word, sound in zip(listed, sounds, strict=True) if common[sound] == 1 and len(word) > _SHORT_WORD]


def _fill(dice: random.Random, template: str, slots: dict[str, list[str]]) -> str:
    """Two slots of one list, like {animal} and {animal2}, get different words."""
    return template.format(**_drawn(dice, template, slots))


def _fill_both(dice: random.Random, template: str, slots: dict[str, list[str]]) -> Pair:
    """Both sides of a German template; {Noun} is the English of {noun}."""
    drawn = {name: value.split("=") for name, value in _drawn(dice, template.split(" = ")[0], slots).items()}
    values = {name: value[0] for name, value in drawn.items()}
    values |= {name.capitalize(): value[1] for name, value in drawn.items()}
    original, translation = template.format(**values).split(" = ")
    return original, translation


def _drawn(dice: random.Random, template: str, slots: dict[str, list[str]]) -> dict[str, str]:
    names = _names(template)
    kinds = Counter(_kind(name) for name in names)
    values = {kind: dice.sample(slots[kind], number) for kind, number in kinds.items()}
    return {name: values[_kind(name)].pop() for name in names}


def _fits(template: str, slots: dict[str, list[str]], known: frozenset[str]) -> bool:
    kinds = Counter(_kind(name) for name in _names(template))
    return _is_known(_plain(template), known) and all(len(slots[kind]) >= number for kind, number in kinds.items())


def _names(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def _kind(name: str) -> str:
    return name.rstrip("23456")


def _plain(template: str) -> str:
    """What a template says besides its slots; of a German one with its translation, the translation."""
    return re.sub(r"{\w+}", "", template.split(" = ")[-1])


def _is_known(text: str, known: frozenset[str]) -> bool:
    return known.issuperset(text.split())


def _known(values: Sequence[str], known: frozenset[str]) -> list[str]:
    return [value for value in values if _is_known(value, known)]


def _both_known(pair: str, vocabulary: Vocabulary) -> bool:
    original, translation = pair.split("=")
    return _is_known(original, vocabulary["de"]) and _is_known(translation, vocabulary["en"])
