"""Questions about two pictures, in the order of the message."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.examination.canvas import COLORS, SHAPES
from tests.examination.question import IMAGE, Maker, Question, user, with_article
from tests.examination.questions import caption, plural, some_looks, yes_or_no
from tests.examination.scenes import Scene, scenes

MORE = ("Which picture has more {}?", "Which picture shows more {}?", "In which picture are there more {}?")
SHOWS = ("Which picture shows {}?", "Which picture has {}?", "In which picture is {}?")
BOTH = ("What is in the pictures?", "Describe the pictures.", "What do you see in the pictures?")
ORDER = ("first", "second")

Pair = tuple[Scene, Scene]


def pairs(dice: random.Random) -> Iterator[Pair]:
    """Endlessly many pairs of scenes, most of them small."""
    drawn = scenes(dice, (1, 1, 2, 2, 2, 3, 3, 3, 4, 5))
    while True:
        yield next(drawn), next(drawn)


def about_both(dice: random.Random, kind: str, pair: Pair, text: str, answer: str) -> Question:
    parts = (IMAGE, IMAGE, text) if dice.random() < 0.85 else (text, IMAGE, IMAGE)
    return Question(kind, (user(*parts),), answer, tuple(scene.picture() for scene in pair))


def ask_more(dice: random.Random) -> Question:
    """More circles, more red objects or simply more objects; each answer is as likely."""
    wanted = dice.choice(("the first", "the second", "both the same"))
    for pair in pairs(dice):
        color, shape = dice.choice(((None, None), (dice.choice(COLORS), None), (None, dice.choice(SHAPES))))
        first, second = (scene.count(color, shape) for scene in pair)
        # That none has any is rarely what people ask about.
        if first + second and wanted == _more(first, second):
            break
    return about_both(dice, "comparison: more", pair, dice.choice(MORE).format(plural(color, shape)), wanted)


def ask_shows(dice: random.Random) -> Question:
    """Which picture shows a shape, with or without its colour; each answer is as likely."""
    wanted = dice.choice(("the first", "the second", "both", "neither"))
    for pair in pairs(dice):
        color, shape = dice.choice((None, dice.choice(COLORS))), dice.choice(SHAPES)
        if wanted == _shown(*(scene.count(color, shape) > 0 for scene in pair)):
            break
    thing = with_article(f"{color or ''} {shape}".strip())
    return about_both(dice, "comparison: which shows", pair, dice.choice(SHOWS).format(thing), wanted)


def ask_one_of_two(dice: random.Random) -> Question:
    """A question about one picture, with `in the first picture`."""
    pair, place = next(pairs(dice)), dice.randrange(2)
    scene = pair[place]
    color, shape = some_looks(dice, *pair)
    thing = dice.choice(dice.choice(pair).things).name
    choices = (
        ("What is", caption(scene)),
        ("How many objects are", str(scene.count())),
        (f"How many {plural(color, shape)} are", str(scene.count(color, shape))),
        (f"Is there {with_article(thing)}", yes_or_no(any(other.name == thing for other in scene.things))),
    )
    asked, answer = dice.choice(choices)
    return about_both(dice, "two pictures: one of them", pair, f"{asked} in the {ORDER[place]} picture?", answer)


def ask_both(dice: random.Random) -> Question:
    pair = next(pairs(dice))
    answer = "; ".join(f"{order} picture: {caption(scene)}" for order, scene in zip(ORDER, pair, strict=True))
    return about_both(dice, "two pictures: describe both", pair, dice.choice(BOTH), answer)


def _more(first: int, second: int) -> str:
    return "both the same" if first == second else "the first" if first > second else "the second"


def _shown(first: bool, second: bool) -> str:
    return {(True, True): "both", (True, False): "the first", (False, True): "the second"}.get(
        (first, second), "neither"
    )


PAIRS: tuple[Maker, ...] = (ask_more, ask_shows, ask_one_of_two, ask_both)
