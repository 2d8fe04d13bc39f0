"""The texts the model is taught: sentences, words at random, digits and numbers, in two languages.

Knows every word that may be spoken. The tokenizer is built from ``words()``, so a new word means a
new vocabulary and a new training run.
"""

import random
import re
from dataclasses import dataclass

from training.speech import english, german

DIGITS = tuple(english.UNITS[:10])
LANGUAGES = ("en", "de")

_SLOT = re.compile(r"\{([a-z_]+)(\d?)\}")


@dataclass(frozen=True)
class Text:
    """Words of one utterance; ``translation`` has (English word, index of the German one or -1)."""

    language: str
    words: list[str]
    translation: list[tuple[str, int]] | None = None


def _literal(patterns: list[str]) -> list[str]:
    return _SLOT.sub(" ", " ".join(patterns)).split()


def english_words() -> list[str]:
    """Every English word, those of the translations among them, sorted."""
    grammar = _literal([pattern for patterns in english.GRAMMAR.values() for pattern in patterns])
    target = _literal([pattern for _, pattern in german.SENTENCES])
    slots = " ".join(word for pairs in german.SLOTS.values() for _, word in pairs).split()
    numbers = [*english.UNITS, *english.TENS, *english.EXTRA_WORDS]
    return sorted({*grammar, *target, *slots, *numbers})


def german_words() -> list[str]:
    """Every German word, sorted."""
    slots = [word for pairs in german.SLOTS.values() for word, _ in pairs]
    return sorted({*_literal([de for de, _ in german.SENTENCES]), *slots, *german.UNITS})


def words() -> list[str]:
    """Every word of the domain, sorted."""
    return sorted({*english_words(), *german_words()})


_ENGLISH = [word for word in english_words() if word not in english.ONLY_IN_SENTENCES]
_GERMAN = german_words()


def digit_string(rng: random.Random, longest: int = 10) -> list[str]:
    """One to ``longest`` digits, with runs of one digit more often than chance gives them."""
    return _string(rng, DIGITS, longest)


def _string(rng: random.Random, choices: tuple[str, ...] | list[str], longest: int) -> list[str]:
    chosen = [rng.choice(choices) for _ in range(rng.randint(1, longest))]
    # Repeats are where an attention model skips or doubles a word; uniform draws show too few.
    for index in range(1, len(chosen)):
        if rng.random() < 0.08:
            chosen[index] = chosen[index - 1]
    return chosen


def number(value: int) -> list[str]:
    """An English cardinal number below a million in words, without "and"."""
    if value >= 100:
        size, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
        rest = number(value % size) if value % size else []
        return [*number(value // size), name, *rest]
    if value < 20:
        return [english.UNITS[value]]
    return [english.TENS[value // 10 - 2], *([english.UNITS[value % 10]] if value % 10 else [])]


def _numbers(rng: random.Random) -> list[str]:
    """One to four numbers of different sizes, some with a word between them."""
    said: list[str] = []
    for _ in range(rng.randint(1, 4)):
        said += number(rng.randrange(rng.choice((20, 100, 100, 1000, 10_000))))
        if rng.random() < 0.3:
            said.append(rng.choice(("plus", "minus", "times", "and", "point", "percent", "equals")))
    return said


def english_sentence(rng: random.Random) -> list[str]:
    """One sentence of the English grammar."""

    def filled(pattern: str) -> str:
        return _SLOT.sub(lambda slot: filled(rng.choice(english.GRAMMAR[slot[1]])), pattern)

    return filled("{sentence}").split()


def german_sentence(rng: random.Random) -> Text:
    """One sentence of the German grammar with its translation."""
    source, target = rng.choice(german.SENTENCES)
    drawn: dict[str, tuple[str, str]] = {}
    where: dict[str, int] = {}
    spoken: list[str] = []
    for part in source.split():
        if slot := _SLOT.fullmatch(part):
            drawn[part] = rng.choice(german.SLOTS[slot[1]])
            where[part] = len(spoken)
            part = drawn[part][0]
        spoken.append(part)
    translation: list[tuple[str, int]] = []
    for part in target.split():
        said = drawn[part][1] if part in drawn else part
        translation += [(word, where.get(part, -1)) for word in said.split()]
    return Text("de", spoken, translation)


def _german_numbers(rng: random.Random) -> Text:
    """One to eight numbers up to twenty, translated word by word."""
    spoken = _string(rng, german.UNITS, 8)
    return Text("de", spoken, [(number(german.UNITS.index(word))[0], place) for place, word in enumerate(spoken)])


def compose(language: str, rng: random.Random) -> Text:
    """A random text. Half of them have no grammar, so that hearing cannot be replaced by it."""
    kind = rng.random()
    if language == "de":
        if kind < 0.55:
            return german_sentence(rng)
        return _german_numbers(rng) if kind < 0.7 else Text("de", _string(rng, _GERMAN, 8))
    if kind < 0.5:
        return Text("en", english_sentence(rng))
    if kind < 0.8:
        return Text("en", _string(rng, _ENGLISH, 9))
    return Text("en", _numbers(rng) if kind < 0.88 else digit_string(rng))


def spelled(text: Text, rng: random.Random) -> str:
    """The words as somebody would type them: with commas, a capital, a full stop, or none."""
    listed = all(word in DIGITS or word in german.UNITS for word in text.words)
    comma = rng.choice((0.0, 0.0, 0.15, 0.5, 1.0)) if listed else rng.choice((0.0, 0.0, 0.0, 0.1))
    parts = [word + "," if rng.random() < comma else word for word in text.words[:-1]]
    written = " ".join([*parts, text.words[-1] + rng.choice(("", "", ".", ".", ",", "?", "!"))])
    return written.capitalize() if rng.random() < 0.3 else written
