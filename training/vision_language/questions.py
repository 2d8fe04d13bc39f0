"""From a scene to questions and their one right answer.

Answer forms, fixed here and described in the model card: captions list the items from left to
right ("a red circle and a blue square"); counts are digits; yes/no, colours and shapes are one
lower-case word.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from training.vision_language.phrases import phrase
from training.vision_language.scenes import COLOURS, SHAPES, Item, Scene


@dataclass(frozen=True)
class Turn:
    """One question with its answer; `kind` names the skill for the evaluation."""

    kind: str
    question: str
    answer: str


Asker = Callable[[random.Random, Scene], Turn | None]


def with_article(words: str) -> str:
    """`a red circle`, `an orange star`."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def name_of(item: Item) -> str:
    """The item in words, with its article."""
    return with_article(f"{item.colour} {item.shape}")


def join(names: list[str]) -> str:
    """Names as an English list."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def caption_of(scene: Scene) -> str:
    """The scene's caption."""
    return join([name_of(item) for item in scene.items])


def caption(rng: random.Random, scene: Scene) -> Turn:
    """Asks for a description."""
    return Turn(f"caption {len(scene.items)}", phrase(rng, "caption"), caption_of(scene))


def count_all(rng: random.Random, scene: Scene) -> Turn:
    """Asks for the number of items."""
    return Turn("count all", phrase(rng, "count all"), str(len(scene.items)))


def near_kind(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """A colour and a shape, often taken from the scene (not always from the same item)."""
    colours = [item.colour for item in scene.items]
    shapes = [item.shape for item in scene.items]
    # Kinds drawn blindly would nearly always be absent, and "0" the safe guess.
    if rng.random() < 0.45:
        item = rng.choice(scene.items)
        return item.colour, item.shape
    colour = rng.choice(colours if rng.random() < 0.45 else list(COLOURS))
    shape = rng.choice(shapes if rng.random() < 0.45 else list(SHAPES))
    return colour, shape


def count_some(rng: random.Random, scene: Scene) -> Turn:
    """Asks how many items share a colour, a shape or both."""
    colour, shape = near_kind(rng, scene)
    which = rng.choice(("colour", "shape", "both"))
    by_colour = [item.colour == colour for item in scene.items]
    by_shape = [item.shape == shape for item in scene.items]
    if which == "colour":
        return Turn("count", phrase(rng, "count colour", colour=colour), str(sum(by_colour)))
    if which == "shape":
        return Turn("count", phrase(rng, "count shape", shape=shape), str(sum(by_shape)))
    number = sum(c and s for c, s in zip(by_colour, by_shape, strict=True))
    return Turn("count", phrase(rng, "count both", colour=colour, shape=shape), str(number))


def is_there(rng: random.Random, scene: Scene) -> Turn:
    """Asks whether a kind of item is present; about as many yes as no."""
    item, which = rng.choice(scene.items), rng.choice(("colour", "shape", "both", "both"))
    colour, shape = item.colour, item.shape
    # A little over half, since a replaced kind may still be present.
    if rng.random() < 0.55:
        colour, shape = near_kind(rng, scene) if which == "both" else other_kind(rng, scene)
    held = {
        "colour": any(it.colour == colour for it in scene.items),
        "shape": any(it.shape == shape for it in scene.items),
        "both": any((it.colour, it.shape) == (colour, shape) for it in scene.items),
    }
    kind = with_article(f"{colour} {shape}" if which == "both" else shape)
    question = phrase(rng, f"is there {which}", colour=colour, kind=kind)
    return Turn("yes/no", question, "yes" if held[which] else "no")


def other_kind(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """A colour and a shape that the scene lacks (or any, where it has them all)."""
    colours = sorted(set(COLOURS) - {item.colour for item in scene.items})
    shapes = sorted(set(SHAPES) - {item.shape for item in scene.items})
    return rng.choice(colours), rng.choice(shapes or SHAPES)


def sole(rng: random.Random, scene: Scene, attribute: str) -> Item | None:
    """A random item whose colour or shape no other item has."""
    # "The circle" has one answer only where there is one circle.
    values = [getattr(item, attribute) for item in scene.items]
    lone = [item for item in scene.items if values.count(getattr(item, attribute)) == 1]
    return rng.choice(lone) if lone else None


def is_it(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks whether the only item of a shape has a colour."""
    item = sole(rng, scene, "shape")
    if item is None:
        return None
    colour = item.colour if rng.random() < 0.5 else rng.choice(list(COLOURS))
    question = phrase(rng, "is it", colour=colour, shape=item.shape)
    return Turn("yes/no", question, "yes" if colour == item.colour else "no")


def colour_of(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks for the colour of the only item of its shape."""
    item = sole(rng, scene, "shape")
    if item is None:
        return None
    which = "colour alone" if len(scene.items) == 1 and rng.random() < 0.5 else "colour"
    return Turn("colour", phrase(rng, which, shape=item.shape), item.colour)


def shape_of(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks for the shape of the only item of its colour."""
    item = sole(rng, scene, "colour")
    if item is None:
        return None
    which = "shape alone" if len(scene.items) == 1 and rng.random() < 0.5 else "shape"
    return Turn("shape", phrase(rng, which, colour=item.colour), item.shape)


def side(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks for the leftmost, rightmost or middle item."""
    places = {1: (), 2: ("left", "right"), 3: ("left", "right", "middle")}[len(scene.items)]
    if not places:
        return None
    place = rng.choice(places)
    item = scene.items[{"left": 0, "middle": 1, "right": -1}[place]]
    return Turn("side", phrase(rng, place), name_of(item))


ASKERS: tuple[tuple[Asker, int], ...] = (
    (caption, 24), (count_all, 10), (count_some, 15), (is_there, 20), (is_it, 5), (colour_of, 12),
    (shape_of, 12), (side, 10),
)  # fmt: skip


def ask(rng: random.Random, scene: Scene) -> Turn:
    """A random question that the scene can answer."""
    askers, odds = zip(*ASKERS, strict=True)
    while True:
        turn: Turn | None = rng.choices(askers, odds)[0](rng, scene)
        if turn is not None:
            return turn


def ask_pair(rng: random.Random, first: Scene, second: Scene) -> Turn:
    """A question about two pictures in one message."""
    one, two = caption_of(first), caption_of(second)
    which = rng.choice(("both", "first", "second"))
    answers = {"both": f"first picture: {one}; second picture: {two}", "first": one, "second": two}
    return Turn(f"two pictures: {which}", phrase(rng, f"pair {which}"), answers[which])
