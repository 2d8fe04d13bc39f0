"""Questions about two pictures in one conversation."""

from __future__ import annotations

import random
import re

from training.vision_language.answers import Turn, caption_of, with_article
from training.vision_language.phrases import phrase
from training.vision_language.pixels import Picture
from training.vision_language.questions import ask, matching, near_kind
from training.vision_language.scenes import COLOURS, SHAPES, Scene

PLACE = re.compile(r" (?:in|on) (?:the|this) (?:picture|image|photo|drawing)| here(?=[?.]?$)")


def both(rng: random.Random, first: Picture, second: Picture) -> Turn:
    """Asks for the captions of both."""
    one, two = caption_of(first), caption_of(second)
    answer = f"first picture: {one}; second picture: {two}"
    full = f"The first picture shows {one}. The second picture shows {two}."
    return Turn("two pictures: both", phrase(rng, "pair both"), answer, full)


def one_of(rng: random.Random, first: Picture, second: Picture) -> Turn:
    """A question about one picture, with "in the second picture" or the like."""
    name, picture = rng.choice((("first", first), ("second", second)))
    if rng.random() < 0.3:
        text = caption_of(picture)
        full = f"The {name} picture shows {text}."
        return Turn("two pictures: one", phrase(rng, f"pair {name}"), text, full)
    turn = ask(rng, picture)
    bare = PLACE.sub("", turn.question)
    # Wordings that speak of the picture itself cannot be told to mean one of two.
    while not bare or re.search(r"picture|image|photo|drawing|look|caption|this|Caption|Look", bare):
        turn = ask(rng, picture)
        bare = PLACE.sub("", turn.question)
    word = rng.choice(("picture", "picture", "image"))
    if rng.random() < 0.2:
        question = f"In the {name} {word}, {bare[0].lower()}{bare[1:]}"
    else:
        end = bare[-1] if bare[-1] in ".?" else ""
        question = f"{bare.removesuffix(end)} in the {name} {word}{end}"
    return Turn("two pictures: one", question, turn.answer, turn.full, turn.structure)


def some_kind(rng: random.Random, scene: Scene) -> tuple[str | None, str | None, str]:
    """A colour, a shape or both, often of an item in the scene, and its name in words."""
    colour, shape = near_kind(rng, scene)
    which = rng.random()
    if which < 0.25:
        return colour, None, f"{colour} object"
    return (None, shape, shape) if which < 0.7 else (colour, shape, f"{colour} {shape}")


def more(rng: random.Random, first: Scene, second: Scene) -> Turn:
    """Asks which picture has more of something, often of something that both have as many of."""
    same = rng.random() < 0.4
    for _ in range(12):
        colour, shape, what = some_kind(rng, rng.choice((first, second)))
        if rng.random() < 0.3:
            colour, shape, what = None, None, rng.choice(("object", "object", "shape"))
        one, two = matching(first, colour, shape), matching(second, colour, shape)
        # Two pictures without any would make "the same" the safe guess.
        if (one == two) == same and one + two > 0:
            break
    question = phrase(rng, "pair more", things=f"{what}s")
    if one == two:
        full = f"Both pictures have the same number of {what}s."
        return Turn("two pictures: more", question, "both the same", full)
    name = "first" if one > two else "second"
    return Turn("two pictures: more", question, f"the {name}", f"The {name} picture has more {what}s.")


def shows(rng: random.Random, first: Scene, second: Scene) -> Turn:
    """Asks which picture shows something."""
    colour, shape, what = some_kind(rng, rng.choice((first, second)))
    if rng.random() < 0.12:
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        what = f"{colour} {shape}"
    held = matching(first, colour, shape) > 0, matching(second, colour, shape) > 0
    kind = with_article(what)
    answer, full = {
        (True, False): ("the first", f"The first picture shows {kind}."),
        (False, True): ("the second", f"The second picture shows {kind}."),
        (True, True): ("both", f"Both pictures show {kind}."),
        (False, False): ("neither", f"Neither picture shows {kind}."),
    }[held]
    return Turn("two pictures: shows", phrase(rng, "pair shows", kind=kind), answer, full)


def ask_pair(rng: random.Random, first: Picture, second: Picture) -> Turn:
    """A random question about two pictures."""
    pick = rng.random()
    if isinstance(first, Scene) and isinstance(second, Scene) and pick < 0.74:
        return (more if pick < 0.5 else shows)(rng, first, second)
    return both(rng, first, second) if pick < 0.82 else one_of(rng, first, second)
