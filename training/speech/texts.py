"""The texts the model is taught: digit strings, and short sentences over a small vocabulary.

Knows every word that may be spoken. The tokenizer is built from ``words()``, so a new word means a
new vocabulary and a new training run.
"""

import random
import re

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_COLOURS = ["red", "green", "blue", "yellow", "black", "white", "orange", "purple", "brown", "pink"]
_SHAPES = ["circle", "square", "triangle", "star", "cross", "ring", "box", "line", "heart", "arrow"]
_SIZES = ["small", "large", "big", "little", "tiny"]
_DEVICES = [
    "light", "lamp", "door", "window", "radio", "music", "screen", "camera", "heater", "fan",
    "alarm", "clock",
]
_ROOMS = ["kitchen", "bedroom", "garden", "office", "hall"]
_NAMES = ["anna", "peter", "maria", "david", "sarah", "tom"]
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_TIMES = ["morning", "afternoon", "evening", "night"]

_SLOTS = {
    "digit": list(DIGITS), "colour": _COLOURS, "shape": _SHAPES, "size": _SIZES,
    "device": _DEVICES, "room": _ROOMS, "name": _NAMES, "day": _DAYS, "time": _TIMES,
}

_TEMPLATES = (
    "hello {name}", "good {time} {name}", "hello how are you today", "thank you very much {name}",
    "goodbye {name} see you on {day}", "my name is {name}", "i am very well thank you",
    "turn on the {device}", "turn off the {device} in the {room}", "open the {device} please",
    "close the {device} in the {room}", "please stop the {device}", "start the {device} now",
    "set the {device} to {digit}", "there is a {size} {colour} {shape}",
    "the {shape} is {colour}", "draw a {size} {colour} {shape} on the left",
    "draw a {colour} {shape} on the right", "put the {colour} {shape} under the {shape}",
    "i see {digit} {colour} {shape} and a {size} {shape}", "what colour is the {shape}",
    "is the {shape} {colour} or {colour}", "where is the {colour} {shape}",
    "call {name} on {day} {time}", "wake me at {digit} in the {time}",
    "it is cold in the {room} this {time}", "what is the time", "yes please", "no thank you",
    "the number is {digit} {digit} {digit}", "my number is {digit} {digit} {digit} {digit}",
)


def words() -> list[str]:
    """Every word of the domain, sorted."""
    plain = re.sub(r"\{\w+\}", " ", " ".join(_TEMPLATES)).split()
    return sorted(set(plain).union(*_SLOTS.values()))


def digit_string(rng: random.Random, longest: int = 10) -> list[str]:
    """One to ``longest`` digits, with runs of one digit more often than chance gives them."""
    digits = [rng.choice(DIGITS) for _ in range(rng.randint(1, longest))]
    # Repeats are where an attention model skips or doubles a word; uniform draws show too few.
    for index in range(1, len(digits)):
        if rng.random() < 0.08:
            digits[index] = digits[index - 1]
    return digits


def sentence(rng: random.Random) -> list[str]:
    """One sentence of the small grammar."""
    template = rng.choice(_TEMPLATES)
    return re.sub(r"\{(\w+)\}", lambda match: rng.choice(_SLOTS[match[1]]), template).split()


def spelled(words_: list[str], rng: random.Random) -> str:
    """The words as somebody would type them: with commas, a capital, a full stop, or none."""
    comma = rng.choice((0.0, 0.0, 0.15, 0.5, 1.0)) if all(w in DIGITS for w in words_) else 0.0
    parts = [word + "," if rng.random() < comma else word for word in words_[:-1]]
    text = " ".join([*parts, words_[-1] + rng.choice(("", "", ".", ","))])
    return text.capitalize() if rng.random() < 0.2 else text
