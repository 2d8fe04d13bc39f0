"""Random conversations without a picture, one to three turns."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from training.vision_language.answers import Turn
from training.vision_language.intents import (
    FACTS,
    FIXED,
    NAMES,
    NO_PICTURE,
    OFF_TOPIC,
    PRINTED,
    UNKNOWN,
    WORDS,
)
from training.vision_language.phrases import expand, phrase, vary
from training.vision_language.scenes import COLOURS, SHAPES
from training.vision_language.tools import without_tool

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)  # fmt: skip


def spelled(number: int, digits: bool) -> str:
    """A number from 0 to 20 in digits or words."""
    return str(number) if digits else UNITS[number]


def fixed(rng: random.Random) -> Turn:
    """A turn with a fixed answer."""
    name, wordings, answer = rng.choice(FIXED)
    return Turn(f"chat: {name}", vary(rng, expand(rng, rng.choice(wordings))), answer)


def fact(rng: random.Random) -> Turn:
    """One of a few facts."""
    wordings, form, table = rng.choice(FACTS)
    thing = rng.choice(list(table))
    question = expand(rng, rng.choice(wordings)).replace("<x>", thing)
    answer = form.replace("<x>", thing).replace("<y>", table[thing])
    return Turn("fact", vary(rng, question), answer)


def count_to(rng: random.Random) -> Turn:
    """Counting up from one, seldom down to one."""
    top = rng.randint(2, 10) if rng.random() < 0.93 else rng.randint(11, 20)
    numbers = [str(number) for number in range(1, top + 1)]
    last = spelled(top, rng.random() < 0.7)
    if rng.random() < 0.1:
        return Turn("count to", vary(rng, f"Count down from {last}."), " ".join(numbers[::-1]))
    ask = "{Count|Count|Please count|Can you count|Count up}{|| from one| from 1} to <x>{.|.|?}"
    return Turn("count to", vary(rng, expand(rng, ask).replace("<x>", last)), " ".join(numbers))


def arithmetic(rng: random.Random) -> Turn:
    """A sum of two numbers of one digit, or a difference that is not negative."""
    digits = rng.random() < 0.65
    one, two, word, sign = rng.randint(0, 10), rng.randint(0, 10), "plus", "+"
    if rng.random() < 0.3:
        one, two, word, sign = max(one, two), min(one, two), "minus", "-"
    result = one + two if sign == "+" else one - two
    ask = (
        "{What is|What is|What's|How much is|Calculate|Compute|Can you tell me what is|Tell me} <a>?",
        "{|What is the sum of }<a>{?| =| = ?}",
        "{Add|Please add|What is the sum of} <b>{.|?}",
    )
    pair = spelled(one, digits), spelled(two, digits)
    joined = f" {sign if digits and rng.random() < 0.6 else word} ".join(pair)
    question = expand(rng, rng.choice(ask if sign == "+" else ask[:1])).replace("<a>", joined)
    question = question.replace("<b>", " and ".join(pair))
    return Turn("sum", vary(rng, question), str(result), f"{one} {word} {two} is {result}.")


def spell(rng: random.Random) -> Turn:
    """Spelling a listed word, forwards or backwards."""
    word = rng.choice(PRINTED)
    shown = rng.choices((word, word.upper(), word.capitalize()), (8, 1, 1))[0]
    if rng.random() < 0.5:
        ask = '{Spell|Please spell|Can you spell} {|the word }{<x>|<x>|<x>|"<x>"} backwards{.|?|}'
        ask = rng.choice((ask, ask, "{Write|Say} {|the word }<x> backwards{.|}"))
        return Turn("spell backwards", vary(rng, expand(rng, ask).replace("<x>", shown)), " ".join(word[::-1]))
    ask = '{Spell|Please spell|Can you spell|How do you spell} {|the word }{<x>|<x>|<x>|"<x>"}{.|?|}'
    return Turn("spell", vary(rng, expand(rng, ask).replace("<x>", shown)), " ".join(word))


def invented(rng: random.Random) -> str:
    """A word that is in no list, so that repeating has to be copying."""
    count = rng.randint(1, 4)
    parts = [rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(count)]
    word = "".join(parts) + rng.choice(("", "n", "r", "s", "t", "x"))
    return word.capitalize() if rng.random() < 0.2 else word


def some_word(rng: random.Random) -> str:
    """A listed or an invented word, or a number."""
    pick = rng.random()
    # Listed words alone would be recalled; invented ones force copying.
    if pick < 0.8:
        word = rng.choice(rng.choice((WORDS, WORDS, PRINTED, NAMES)))
        return word.capitalize() if rng.random() < 0.08 else word
    return invented(rng) if pick < 0.96 else str(rng.randint(0, 999))


def repeat(rng: random.Random) -> Turn:
    """Repeating one to five words."""
    words = " ".join(some_word(rng) for _ in range(rng.choices((1, 2, 3, 4, 5), (4, 5, 5, 5, 1))[0]))
    ask = (
        "{Repeat|Please repeat|Can you repeat|Say} after me: <x>",
        "{Repeat|Repeat|Please repeat|Can you repeat}{| after me| the word| the words| this| exactly}: <x>",
        "{Say|Please say|Echo|Just say|Say exactly}{| the word| the words|:} <x>",
        '{Say|Repeat} "<x>"{.|}',
    )
    return Turn("repeat", expand(rng, rng.choice(ask)).replace("<x>", words), words)


def my_name(rng: random.Random) -> Turn:
    """The user gives a name."""
    name = rng.choice(NAMES) if rng.random() < 0.6 else invented(rng).capitalize()
    ask = "{My name is|My name is|I am|I'm|Hello, I am|Hi, my name is|Call me} <x>{.|.|!|}"
    return Turn("my name", expand(rng, ask).replace("<x>", name), f"Nice to meet you, {name}.")


def greeted(rng: random.Random, turn: Turn) -> Turn:
    """The same name, met with other words: a client may send a conversation that this model never had."""
    name = turn.answer.removeprefix("Nice to meet you, ").removesuffix(".")
    ask = "{Hello <x>{!|.|}|Hi <x>{!|.|}|Hello, <x>{!|.}|Hi, <x>{!|.}|Welcome, <x>.|OK.|Hello!}"
    return replace(turn, answer=expand(rng, ask).replace("<x>", name), learnt=False)


def blind(rng: random.Random) -> Turn:
    """A question about a picture that nobody sent."""
    kinds = ("caption", "caption", "count all", "count shape", "is it", "colour", "shape", "left",
             "read", "biggest", "is there both", "where", "pair both", "pair more")  # fmt: skip
    text = ""
    # Words that mean a picture only where there is one are left to small talk.
    while len(text) < 16:
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        text = phrase(
            rng, rng.choice(kinds), colour=colour, shape=shape, kind=f"a {colour} {shape}",
            ref=f"the {colour} {shape}", things=f"{shape}s",
        )  # fmt: skip
    return Turn("no picture", text, NO_PICTURE)


def unknown(rng: random.Random) -> Turn:
    """Something the model was not made for."""
    text = expand(rng, rng.choice(OFF_TOPIC))
    while "<w>" in text:
        text = text.replace("<w>", rng.choice(WORDS) if rng.random() < 0.8 else invented(rng), 1)
    return Turn("unknown", vary(rng, text), UNKNOWN)


MAKERS: tuple[tuple[Callable[[random.Random], Turn], int], ...] = (
    (fixed, 20), (fact, 4), (count_to, 9), (arithmetic, 14), (repeat, 24), (spell, 24),
    (my_name, 6), (blind, 5), (unknown, 4), (without_tool, 5),
)  # fmt: skip


def small_talk(rng: random.Random) -> Turn:
    """One random turn."""
    makers, odds = zip(*MAKERS, strict=True)
    maker: Callable[[random.Random], Turn] = rng.choices(makers, odds)[0]
    return maker(rng)


def recall(rng: random.Random, told: str | None) -> Turn:
    """Asks for the name given earlier in the conversation, if any was."""
    ask = "{What is|What's|Tell me|Do you know|Do you remember} my name{?|?|}"
    answer = f"Your name is {told}." if told else "You have not told me your name."
    return Turn("recall", vary(rng, expand(rng, ask)), answer)


def conversation(rng: random.Random) -> list[Turn]:
    """One to three turns; a name told early may be asked for later."""
    turns = [my_name(rng) if rng.random() < 0.15 else small_talk(rng)]
    for _ in range(rng.choices((0, 1, 2, 3), (9, 4, 3, 2))[0]):
        greetings = [turn.answer for turn in turns if turn.kind == "my name"]
        told = greetings[-1].removeprefix("Nice to meet you, ")[:-1] if greetings else None
        # Now and then nobody gave a name, so that the answer is not always a name.
        asks = rng.random() < (0.6 if told else 0.03)
        turns.append(recall(rng, told) if asks else small_talk(rng))
    return [greeted(rng, turn) if turn.kind == "my name" and rng.random() < 0.4 else turn for turn in turns]
