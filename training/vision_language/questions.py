"""From one picture to questions and their one right answer.

Answer forms, fixed here and described in the model card: captions list the items from left to
right ("a red circle and a blue square"); counts are digits; yes/no, colours and shapes are one
lower-case word.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from training.vision_language.answers import (
    Turn,
    caption_of,
    name_of,
    number_of,
    objects_json,
    plain_name,
    with_article,
)
from training.vision_language.phrases import phrase
from training.vision_language.pixels import Picture
from training.vision_language.prints import Print
from training.vision_language.scenes import COLOURS, SHAPES, Item, Scene

Asker = Callable[[random.Random, Scene], Turn | None]
# Radii must differ by this much before anybody asks which is bigger.
CLEARLY = 1.25
# Nearer to a border between thirds than this share of the side, "where" has two answers.
CLEAR_OF_BORDER = 0.06


def caption(rng: random.Random, scene: Scene) -> Turn:
    """Asks for a description."""
    text = caption_of(scene)
    question, full = phrase(rng, "caption"), f"The picture shows {text}."
    return Turn(f"caption {len(scene.items)}", question, text, full, objects_json(scene))


def count_all(rng: random.Random, scene: Scene) -> Turn:
    """Asks for the number of items."""
    count = len(scene.items)
    return Turn("count all", phrase(rng, "count all"), str(count), number_of(count, "object"))


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


def matching(scene: Scene, colour: str | None, shape: str | None) -> int:
    """How many items have the colour and the shape; None matches all."""
    return sum(colour in (None, item.colour) and shape in (None, item.shape) for item in scene.items)


def count_some(rng: random.Random, scene: Scene) -> Turn:
    """Asks how many items share a colour, a shape or both."""
    colour, shape = near_kind(rng, scene)
    which = rng.choice(("colour", "shape", "both"))
    number = matching(scene, *{"colour": (colour, None), "shape": (None, shape), "both": (colour, shape)}[which])
    what = {"colour": f"{colour} object", "shape": shape, "both": f"{colour} {shape}"}[which]
    question = phrase(rng, f"count {which}", colour=colour, shape=shape)
    return Turn("count", question, str(number), number_of(number, what))


def is_there(rng: random.Random, scene: Scene) -> Turn:
    """Asks whether a kind of item is present; about as many yes as no."""
    item, which = rng.choice(scene.items), rng.choice(("colour", "shape", "both", "both"))
    colour, shape = item.colour, item.shape
    # A little over half, since a replaced kind may still be present.
    if rng.random() < 0.55:
        colour, shape = near_kind(rng, scene) if which == "both" else other_kind(rng, scene)
    asked = {"colour": (colour, None), "shape": (None, shape), "both": (colour, shape)}[which]
    what = {"colour": f"{colour} object", "shape": shape, "both": f"{colour} {shape}"}[which]
    question = phrase(rng, f"is there {which}", colour=colour, kind=with_article(what))
    if matching(scene, *asked):
        return Turn("yes/no", question, "yes", f"Yes, there is {with_article(what)}.")
    return Turn("yes/no", question, "no", f"No, there is no {what}.")


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


def reference(rng: random.Random, scene: Scene, item: Item) -> str | None:
    """Words that mean this item and no other: `the red circle`, or `the circle`."""
    if matching(scene, item.colour, item.shape) > 1:
        return None
    if matching(scene, None, item.shape) == 1 and rng.random() < 0.35:
        return f"the {item.shape}"
    return f"the {plain_name(item)}"


def is_it(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks whether the only item of a shape has a colour."""
    item = sole(rng, scene, "shape")
    if item is None:
        return None
    colour = item.colour if rng.random() < 0.5 else rng.choice(list(COLOURS))
    question = phrase(rng, "is it", colour=colour, shape=item.shape)
    if colour == item.colour:
        return Turn("yes/no", question, "yes", f"Yes, the {item.shape} is {colour}.")
    return Turn("yes/no", question, "no", f"No, the {item.shape} is not {colour}.")


def colour_of(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks for the colour of the only item of its shape."""
    item = sole(rng, scene, "shape")
    if item is None:
        return None
    which = "colour alone" if len(scene.items) == 1 and rng.random() < 0.4 else "colour"
    question = phrase(rng, which, shape=item.shape)
    return Turn("colour", question, item.colour, f"The {item.shape} is {item.colour}.")


def shape_of(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks for the shape of the only item of its colour."""
    item = sole(rng, scene, "colour")
    if item is None:
        return None
    which = "shape alone" if len(scene.items) == 1 and rng.random() < 0.4 else "shape"
    question = phrase(rng, which, colour=item.colour)
    return Turn("shape", question, item.shape, f"The {item.colour} object is {with_article(item.shape)}.")


def side(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks for the leftmost, rightmost or (of three) middle item."""
    places = ("left", "right", "middle") if len(scene.items) == 3 else ("left", "right")
    if len(scene.items) == 1 and rng.random() < 0.8:
        return None
    place = rng.choice(places)
    name = name_of(scene.items[{"left": 0, "middle": 1, "right": -1}[place]])
    at = {"left": "on the left", "right": "on the right", "middle": "in the middle"}[place]
    return Turn("side", phrase(rng, place), name, f"{name.capitalize()} is {at}.")


def beside(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks for the neighbour of an item in the order from left to right."""
    index, way = rng.randrange(len(scene.items)), rng.choice(("left", "right"))
    ref = reference(rng, scene, scene.items[index])
    if ref is None or (len(scene.items) == 1 and rng.random() < 0.8):
        return None
    other = index + (1 if way == "right" else -1)
    name = name_of(scene.items[other]) if 0 <= other < len(scene.items) else "nothing"
    question = phrase(rng, f"beside {way}", ref=ref)
    return Turn("beside", question, name, f"{name.capitalize()} is {way} of {ref}.")


def third(share: float) -> int | None:
    """Which third a share of the side lies in, or None near a border."""
    if min(abs(share - 1 / 3), abs(share - 2 / 3)) < CLEAR_OF_BORDER:
        return None
    return min(2, int(3 * share))


def where(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks in which ninth of the picture an item lies."""
    item = rng.choice(scene.items)
    ref = reference(rng, scene, item)
    column, row = third(item.x / scene.width), third(item.y / scene.height)
    if ref is None or column is None or row is None:
        return None
    place = " ".join(filter(None, (("top", "", "bottom")[row], ("left", "", "right")[column])))
    place = place or "center"
    preposition = {"center": "in", "left": "on", "right": "on"}.get(place, "at")
    full = f"{ref.capitalize()} is {preposition} the {place}."
    return Turn("where", phrase(rng, "where", ref=ref), place, full)


def extreme(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks for the biggest or the smallest item."""
    which = rng.choice(("biggest", "smallest"))
    order = sorted(scene.items, key=lambda item: item.radius, reverse=which == "biggest")
    if len(order) < 2:
        return None
    first, second = sorted((order[0].radius, order[1].radius))
    if second < CLEARLY * first:
        return None
    name = name_of(order[0])
    return Turn("size", phrase(rng, which), name, f"The {which} object is {name}.")


def compare(rng: random.Random, scene: Scene) -> Turn | None:
    """Asks whether one item is bigger (or smaller) than another."""
    if len(scene.items) < 2:
        return None
    one, two = rng.sample(scene.items, 2)
    refs = reference(rng, scene, one), reference(rng, scene, two)
    low, high = sorted((one.radius, two.radius))
    if refs[0] is None or refs[1] is None or high < CLEARLY * low:
        return None
    which = "bigger" if rng.random() < 0.75 else "smaller"
    holds = (one.radius > two.radius) == (which == "bigger")
    question = phrase(rng, which, ref=refs[0], other=refs[1])
    if holds:
        return Turn("size yes/no", question, "yes", f"Yes, {refs[0]} is {which} than {refs[1]}.")
    return Turn("size yes/no", question, "no", f"No, {refs[0]} is not {which} than {refs[1]}.")


ASKERS: tuple[tuple[Asker, int], ...] = (
    (caption, 6), (count_all, 6), (count_some, 18), (is_there, 10), (is_it, 4), (colour_of, 6),
    (shape_of, 7), (side, 7), (beside, 30), (where, 10), (extreme, 12), (compare, 20),
)  # fmt: skip


def ask_scene(rng: random.Random, scene: Scene) -> Turn:
    """A random question that the scene can answer."""
    askers, odds = zip(*ASKERS, strict=True)
    while True:
        turn: Turn | None = rng.choices(askers, odds)[0](rng, scene)
        if turn is not None:
            return turn


def ask_print(rng: random.Random, scene: Print, which: str | None = None) -> Turn:
    """Asks for a printed text: by name ("what number"), in general, or for a caption."""
    sort = "number" if scene.text.isdigit() else "word"
    named = f"the {sort} {scene.answer}"
    which = which or rng.choice(("read", f"read {sort}", "caption"))
    full = f"The picture shows {named}."
    answer = named if which == "caption" else scene.answer
    return Turn(f"{'caption' if which == 'caption' else 'read'} {sort}", phrase(rng, which), answer, full)


def describe(rng: random.Random, picture: Picture) -> Turn:
    """Asks for the caption of any picture."""
    if isinstance(picture, Print):
        return ask_print(rng, picture, "caption")
    return caption(rng, picture)


def ask(rng: random.Random, picture: Picture) -> Turn:
    """A random question about any picture."""
    return ask_print(rng, picture) if isinstance(picture, Print) else ask_scene(rng, picture)
