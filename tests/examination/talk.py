"""Questions without pictures: small talk, counting, repeating, spelling, sums, names, and what the model cannot know.

Where the answer may be worded freely, a pattern tells what it must say.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

from tests.examination.question import Maker, Question, assistant, user

NO_PICTURE = "I see no picture. Please send one."
CANNOT_KNOW = "I cannot know that."
SMALL_TALK = (
    ("Hello!", r"\b(hello|hi)\b"),
    ("Hi there", r"\b(hello|hi)\b"),
    ("Good morning!", r"\b(hello|hi|good morning)\b"),
    ("Who are you?", "trimodal"),
    ("What are you?", "model"),
    ("Are you a human?", r"\b(no|not|model)\b"),
    ("What is your name?", "trimodal"),
    ("What can you do?", r"(?s)picture.*(count|number|word)|(count|number|word).*picture"),
    ("What shapes do you know?", r"(?s)circle.*star|star.*circle"),
    ("Thank you!", "welcome"),
    ("Thanks a lot.", "welcome"),
    ("Goodbye!", r"\b(good)?bye\b"),
    ("Bye", r"\b(good)?bye\b"),
)
PYTHON = ("How do I call you from Python?", "How can I use you from Python?", "How do I call you in Python?")
COUNT_TO = ("Count to {}.", "Please count to {}.", "Can you count to {}?")
REPEAT = ("Repeat after me: {}", "Please repeat after me: {}", "Repeat: {}")
SPELL = ("Spell {}.", "Spell the word {}.", "How do you spell {}?")
BACKWARDS = ("Spell {} backwards.", "Spell the word {} backwards.", "Please spell {} backwards.")
SUM = ("What is {} plus {}?", "How much is {} plus {}?", "What is {} + {}?")
PICTURE_NEEDED = (
    "What is in the picture?",
    "How many objects are there?",
    "What number is printed?",
    "Is there a star?",
)
SECRETS = ("What is the weather in {}?", "What time is it in {}?")
CITIES = ("Paris", "London", "Berlin", "Rome", "Madrid", "Vienna", "Oslo", "Lisbon", "Tokyo", "Cairo")
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Lisa", "Max", "Maria", "Paul", "Peter", "Sarah", "Tom")
NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
)
WORDS = """
tree house dog cat bird fish sun moon star water milk bread apple book chair table door window car boat train road city
hand foot head eye ear nose mouth day night time year week green blue red black white happy good small big cold warm
fire snow rain wind river sea lake hill stone sand grass leaf flower garden horse cow sheep pig duck mouse lion bear
king queen friend child girl boy man woman school music song game ball box cup plate knife spoon bed lamp clock phone
paper pen shoe hat coat ring gold
"""


def read_words(model: Path) -> tuple[str, ...]:
    """The words that the checkpoint is said to know, one a line in its words.txt; without it, common ones."""
    file = model / "words.txt"
    return tuple((file.read_text() if file.exists() else WORDS).split())


def ask_small_talk(dice: random.Random) -> Question:
    text, pattern = dice.choice(SMALL_TALK)
    return Question("text: small talk", (user(text),), pattern, is_pattern=True)


def ask_python(dice: random.Random) -> Question:
    return Question("text: use from Python", (user(dice.choice(PYTHON)),), "(?s)openai.*base_url", is_pattern=True)


def ask_count_to(dice: random.Random) -> Question:
    number = dice.randint(2, 10)
    text = dice.choice(COUNT_TO).format(dice.choice((number, NUMBERS[number])))
    return _exact("count", text, " ".join(str(step) for step in range(1, number + 1)))


def ask_repeat(words: tuple[str, ...], dice: random.Random) -> Question:
    text = " ".join(dice.sample(words, dice.randint(1, 4)))
    return _exact("repeat", dice.choice(REPEAT).format(text), text)


def ask_spell(words: tuple[str, ...], dice: random.Random) -> Question:
    word = dice.choice(words)
    return _exact("spell", dice.choice(SPELL).format(word), " ".join(word))


def ask_backwards(words: tuple[str, ...], dice: random.Random) -> Question:
    word = dice.choice(words)
    return _exact("spell backwards", dice.choice(BACKWARDS).format(word), " ".join(reversed(word)))


def ask_sum(dice: random.Random) -> Question:
    one, other = dice.randint(0, 9), dice.randint(0, 9)
    text = dice.choice(SUM)
    in_words = "+" not in text and dice.random() < 0.5
    said = text.format(*(NUMBERS[one], NUMBERS[other]) if in_words else (one, other))
    total = one + other
    return Question("text: sum", (user(said),), rf"\b({total}|{NUMBERS[total]})\.?$", is_pattern=True)


def ask_name(dice: random.Random) -> Question:
    """The name is told in the first turn and wanted in the second, third or fourth."""
    name = dice.choice(NAMES)
    turns = [user(f"My name is {name}."), assistant(f"Hello {name}!")]
    for text, reply in dice.sample((("Count to 3.", "1 2 3"), ("Spell cat.", "c a t")), dice.randint(0, 2)):
        turns += [user(text), assistant(reply)]
    return Question("text: name", (*turns, user("What is my name?")), rf"\b{name}\b", is_pattern=True)


def ask_without_picture(dice: random.Random) -> Question:
    return _exact("no picture", dice.choice(PICTURE_NEEDED), NO_PICTURE)


def ask_secret(dice: random.Random) -> Question:
    return _exact("cannot know", dice.choice(SECRETS).format(dice.choice(CITIES)), CANNOT_KNOW)


def _exact(detail: str, text: str, answer: str) -> Question:
    return Question(f"text: {detail}", (user(text),), answer)


def talk_makers(words: tuple[str, ...]) -> tuple[Maker, ...]:
    with_words: tuple[Maker, ...] = tuple(partial(maker, words) for maker in (ask_repeat, ask_spell, ask_backwards))
    plain = (ask_small_talk, ask_python, ask_count_to, ask_sum, ask_name, ask_without_picture, ask_secret)
    return (*plain, *with_words)
