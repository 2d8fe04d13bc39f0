"""Questions about one picture of objects, each with the one right answer."""

from __future__ import annotations

import random
from functools import partial

from tests.examination.canvas import COLORS, SHAPES, Thing
from tests.examination.question import IMAGE, Maker, Question, assistant, listed, user, with_article
from tests.examination.scenes import Scene, differ_in_size, draw_scene, scenes

CAPTION = (
    "What is in the picture?",
    "What's in this picture?",
    "Describe the image.",
    "Please describe this picture.",
    "What do you see?",
    "What does the picture show?",
    "",
)
COUNT_ALL = (
    "How many objects are there?",
    "How many objects are in the picture?",
    "How many shapes do you see?",
    "How many things are in this image?",
)
COUNT = (
    "How many {} are there?",
    "How many {}?",
    "How many {} do you see?",
    "How many {} are in the picture?",
    "Count the {}.",
)
IS_THERE = ("Is there {}?", "Is there {} in the picture?", "Do you see {}?", "Can you see {}?")
IS_COLOR = ("Is the {} {}?",)
COLOR = ("What colour is the {}?", "What color is the {}?", "Which colour does the {} have?")
SHAPE = (
    "What shape is {}?",
    "Which shape is {}?",
    "What is the shape of the {} object?",
    "What shape is the {} object?",
)
SIDE = ("What is {}?", "What do you see {}?", "Which object is {}?")
BESIDE = ("What is {} of the {}?", "What is to the {} of the {}?", "Which object is {} of the {}?")
WHERE = ("Where is the {}?", "Where in the picture is the {}?", "Where do you see the {}?")
EXTREME = ("Which object is the {}?", "What is the {} object?", "Which is the {} object?")
BIGGER = ("Is the {} {} than the {}?",)


def caption(scene: Scene) -> str:
    return listed([with_article(thing.name) for thing in scene.things])


def about(dice: random.Random, kind: str, scene: Scene, text: str, answer: str) -> Question:
    """One picture and one sentence, the picture mostly first."""
    asked = (text,) if text else ()
    message = user(IMAGE, *asked) if dice.random() < 0.85 else user(*asked, IMAGE)
    return Question(kind, (message,), answer, (scene.picture(),))


def ask_caption(num_things: int, dice: random.Random) -> Question:
    group = "scene" if num_things <= 3 else "crowd"
    kind = f"{group}: {num_things} object{'s' * (num_things > 1)}"
    scene = draw_scene(dice, num_things)
    return about(dice, kind, scene, dice.choice(CAPTION), caption(scene))


def ask_count_all(dice: random.Random) -> Question:
    scene = next(scenes(dice, (1, 2, 3, 4, 5)))
    return about(dice, "question: how many objects", scene, dice.choice(COUNT_ALL), str(scene.count()))


def ask_count(dice: random.Random) -> Question:
    scene = next(scenes(dice))
    color, shape = some_looks(dice, scene)
    text = dice.choice(COUNT).format(plural(color, shape))
    return about(dice, "question: how many of a kind", scene, text, str(scene.count(color, shape)))


def ask_is_there(dice: random.Random) -> Question:
    answer = dice.choice(("yes", "no"))
    looks = ((scene, dice.choice((None, *COLORS)), dice.choice(SHAPES)) for scene in scenes(dice))
    scene, color, shape = next(found for found in looks if yes_or_no(found[0].count(*found[1:]) > 0) == answer)
    text = dice.choice(IS_THERE).format(with_article(f"{color or ''} {shape}".strip()))
    return about(dice, "question: is there", scene, text, answer)


def ask_is_color(dice: random.Random) -> Question:
    scene, thing = next((scene, thing) for scene in scenes(dice) for thing in _of_unique_shape(scene))
    color = thing.color if dice.random() < 0.5 else dice.choice(COLORS)
    text = dice.choice(IS_COLOR).format(thing.shape, color)
    return about(dice, "question: is it red", scene, text, yes_or_no(color == thing.color))


def ask_color(dice: random.Random) -> Question:
    scene, thing = next((scene, dice.choice(found)) for scene in scenes(dice) if (found := _of_unique_shape(scene)))
    return about(dice, "question: colour", scene, dice.choice(COLOR).format(thing.shape), thing.color)


def ask_shape(dice: random.Random) -> Question:
    scene, thing = next((scene, dice.choice(found)) for scene in scenes(dice) if (found := _of_unique_color(scene)))
    return about(dice, "question: shape", scene, dice.choice(SHAPE).format(thing.color), thing.shape)


def ask_side(dice: random.Random) -> Question:
    scene = next(scenes(dice, (2, 2, 3, 3, 4, 5)))
    sides = {"on the left": scene.things[0], "on the right": scene.things[-1]}
    if len(scene.things) == 3:
        sides["in the middle"] = scene.things[1]
    side, thing = dice.choice(list(sides.items()))
    return about(dice, "question: side", scene, dice.choice(SIDE).format(side), with_article(thing.name))


def ask_beside(dice: random.Random) -> Question:
    scene, thing = _with_unique(dice, (2, 3, 3, 4, 5))
    side, step = dice.choice((("left", -1), ("right", 1)))
    place = scene.things.index(thing) + step
    answer = with_article(scene.things[place].name) if 0 <= place < len(scene.things) else "nothing"
    text = dice.choice(BESIDE).format(side, thing.name)
    return about(dice, "question: left or right of", scene, text, answer)


def ask_where(dice: random.Random) -> Question:
    places = ((scene, thing, scene.place(thing)) for scene in scenes(dice) for thing in scene.unique())
    scene, thing, place = next((scene, thing, place) for scene, thing, place in places if place)
    return about(dice, "question: where", scene, dice.choice(WHERE).format(thing.name), place)


def ask_extreme(dice: random.Random) -> Question:
    word = dice.choice(("biggest", "smallest"))
    choices = ((scene, _extreme(scene, word)) for scene in scenes(dice, (2, 2, 3, 3, 4, 5)))
    scene, thing = next((scene, thing) for scene, thing in choices if thing)
    text = dice.choice(EXTREME).format(word)
    return about(dice, "question: biggest or smallest", scene, text, with_article(thing.name))


def ask_bigger(dice: random.Random) -> Question:
    word = dice.choice(("bigger", "smaller"))
    pairs = ((scene, scene.unique()) for scene in scenes(dice, (2, 3, 3, 4, 5)))
    choices = ((scene, dice.sample(unique, 2)) for scene, unique in pairs if len(unique) >= 2)
    scene, (one, other) = next((scene, two) for scene, two in choices if differ_in_size(*two))
    answer = yes_or_no((one.radius > other.radius) == (word == "bigger"))
    text = dice.choice(BIGGER).format(one.name, word, other.name)
    return about(dice, "question: bigger or smaller", scene, text, answer)


def ask_later(dice: random.Random) -> Question:
    """A question in the second or third turn about the picture of the first one."""
    scene = next(scenes(dice))
    color, shape = some_looks(dice, scene)
    turns = [
        (dice.choice(COUNT_ALL), str(scene.count())),
        (dice.choice(CAPTION[:-1]), caption(scene)),
        (dice.choice(COUNT).format(plural(color, shape)), str(scene.count(color, shape))),
    ]
    dice.shuffle(turns)
    (first, reply), *between, (text, answer) = turns[: dice.choice((2, 3))]
    messages = [user(IMAGE, first), assistant(reply)]
    messages += [message for asked, said in between for message in (user(asked), assistant(said))]
    return Question("question: later turn", (*messages, user(text)), answer, (scene.picture(),))


def some_looks(dice: random.Random, *choices: Scene) -> tuple[str | None, str | None]:
    """A colour, a shape or both to ask for, mostly of an object that is there."""
    thing = dice.choice([thing for scene in choices for thing in scene.things])
    color, shape = thing.color, thing.shape
    if dice.random() < 0.3:
        color, shape = dice.choice(COLORS), dice.choice(SHAPES)
    return dice.choice(((color, shape), (None, shape), (color, None)))


def plural(color: str | None, shape: str | None) -> str:
    return f"{color or ''} {shape or 'object'}s".strip()


def yes_or_no(truth: bool) -> str:
    return "yes" if truth else "no"


def _with_unique(dice: random.Random, counts: tuple[int, ...]) -> tuple[Scene, Thing]:
    return next((scene, dice.choice(found)) for scene in scenes(dice, counts) if (found := scene.unique()))


def _extreme(scene: Scene, word: str) -> Thing | None:
    first, *others = sorted(scene.things, key=lambda thing: thing.radius, reverse=word == "biggest")
    return first if all(differ_in_size(first, other) for other in others) else None


def _of_unique_shape(scene: Scene) -> list[Thing]:
    return [thing for thing in scene.things if scene.count(shape=thing.shape) == 1]


def _of_unique_color(scene: Scene) -> list[Thing]:
    return [thing for thing in scene.things if scene.count(color=thing.color) == 1]


CAPTIONS: dict[int, Maker] = {number: partial(ask_caption, number) for number in (1, 2, 3, 4, 5)}
QUESTIONS: tuple[Maker, ...] = (
    ask_count_all,
    ask_count,
    ask_is_there,
    ask_is_color,
    ask_color,
    ask_shape,
    ask_side,
    ask_beside,
    ask_where,
    ask_extreme,
    ask_bigger,
    ask_later,
)
