"""Random conversations without a picture, one to three turns."""

from __future__ import annotations

import random
from collections.abc import Callable

from training.vision_language.intents import (
    FACTS,
    FIXED,
    NAMES,
    NO_PICTURE,
    OFF_TOPIC,
    UNKNOWN,
    WORDS,
)
from training.vision_language.phrases import expand, phrase, vary
from training.vision_language.questions import Turn
from training.vision_language.scenes import COLOURS, SHAPES

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)  # fmt: skip
# Larger sums would be learnt by heart just the same, at the cost of everything else.
MAX_SUM = 20


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
    """Counting up from one (or elsewhere), or down to one."""
    digits, top = rng.random() < 0.5, rng.choice((3, 5, 10, rng.randint(2, 20)))
    low = 1 if rng.random() < 0.8 else rng.randint(1, top - 1)
    first, last = spelled(low, digits), spelled(top, digits)
    numbers = [spelled(n, digits) for n in range(low, top + 1)]
    ask = rng.choice(("Count", "Count", "Please count", "Can you count", "Count up"))
    if rng.random() < 0.15:
        answer = ", ".join(numbers[::-1]) + "."
        return Turn("count to", f"Count down from {last} to {first}.", answer)
    start = f" from {first}" if low > 1 or rng.random() < 0.5 else ""
    return Turn("count to", vary(rng, f"{ask}{start} to {last}."), ", ".join(numbers) + ".")


def arithmetic(rng: random.Random) -> Turn:
    """A sum up to twenty, or a difference that is not negative."""
    digits = rng.random() < 0.5
    total = rng.randint(0, MAX_SUM)
    part = rng.randint(max(0, total - 10), min(10, total))
    one, two, result, word = part, total - part, total, "plus"
    if rng.random() < 0.3:
        one, two, result, word = total, part, total - part, "minus"
    ask = "{What is|What's|How much is|Calculate|Compute|Can you tell me what is|Tell me} <a>?"
    sign = rng.choice(({"plus": "+", "minus": "-"}[word], word, word)) if digits else word
    left, right = spelled(one, digits), spelled(two, digits)
    question = expand(rng, ask).replace("<a>", f"{left} {sign} {right}")
    answer = f"{left} {word} {right} is {spelled(result, digits)}."
    return Turn("sum", vary(rng, question), answer[0].upper() + answer[1:])


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
    if pick < 0.5:
        return rng.choice(WORDS)
    return invented(rng) if pick < 0.9 else str(rng.randint(0, 999))


def repeat(rng: random.Random) -> Turn:
    """Repeating one to five words."""
    words = " ".join(some_word(rng) for _ in range(rng.choice((1, 1, 2, 3, rng.randint(2, 5)))))
    ask = (
        "{Repeat|Please repeat|Can you repeat}{| after me| the word| the words| this}{:|:|} <x>",
        "{Say|Please say|Echo|Just say} {the word |the words |}<x>",
        '{Say|Repeat} "<x>"{.|}',
        "{Repeat|Say} after me{:|,} <x>",
    )
    return Turn("repeat", expand(rng, rng.choice(ask)).replace("<x>", words), words)


def my_name(rng: random.Random) -> Turn:
    """The user gives a name."""
    name = rng.choice(NAMES) if rng.random() < 0.6 else invented(rng).capitalize()
    ask = "{My name is|I am|I'm|Hello, I am|Hi, my name is|Call me} <x>{.|!|}"
    return Turn("my name", expand(rng, ask).replace("<x>", name), f"Nice to meet you, {name}.")


def blind(rng: random.Random) -> Turn:
    """A question about a picture that nobody sent."""
    kinds = ("caption", "caption", "count all", "count shape", "is it", "colour", "shape", "left")
    text = ""
    while not text:
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        text = phrase(rng, rng.choice(kinds), colour=colour, shape=shape)
    return Turn("no picture", text, NO_PICTURE)


def unknown(rng: random.Random) -> Turn:
    """Something the model was not made for."""
    text = expand(rng, rng.choice(OFF_TOPIC))
    while "<w>" in text:
        text = text.replace("<w>", rng.choice(WORDS) if rng.random() < 0.8 else invented(rng), 1)
    return Turn("unknown", vary(rng, text), UNKNOWN)


MAKERS: tuple[tuple[Callable[[random.Random], Turn], int], ...] = (
    (fixed, 46), (fact, 7), (count_to, 9), (arithmetic, 15), (repeat, 15), (my_name, 5),
    (blind, 6), (unknown, 6),
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
    turns = [my_name(rng) if rng.random() < 0.12 else small_talk(rng)]
    for _ in range(rng.choices((0, 1, 2), (5, 3, 2))[0]):
        greetings = [turn.answer for turn in turns if turn.kind == "my name"]
        told = greetings[-1].removeprefix("Nice to meet you, ")[:-1] if greetings else None
        # Now and then nobody gave a name, so that the answer is not always a name.
        asks = rng.random() < (0.5 if told else 0.03)
        turns.append(recall(rng, told) if asks else small_talk(rng))
    return turns
