"""What the evaluation asks: fresh pictures from unused seeds, and wordings nobody trained on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from training.vision_language.chat import MAKERS, conversation
from training.vision_language.intents import FIXED
from training.vision_language.pixels import PictureSizes
from training.vision_language.plain import plain_picture
from training.vision_language.questions import (
    Turn,
    ask,
    ask_pair,
    caption,
    join,
    with_article,
)
from training.vision_language.runner import Message, user
from training.vision_language.scenes import Scene, draw, random_scene

ASKING = ("What is in the picture?", "Describe the image.", "What do you see?")
# Wordings absent from intents.py, to see how far the model generalises.
UNSEEN = (
    ("hello", "Hello, my friend!"),
    ("hello", "Hi, nice to see you."),
    ("who", "Could you tell me who you are?"),
    ("who", "What are you exactly?"),
    ("name", "Please tell me your name."),
    ("about", "Tell me something about yourself."),
    ("can", "What things can you do?"),
    ("can", "What else can you do?"),
    ("thanks", "Thank you so much!"),
    ("thanks", "Thanks for the answer."),
    ("bye", "Bye, see you tomorrow!"),
    ("days", "Tell me the seven days of the week."),
    ("months", "What are the twelve months of the year?"),
    ("story", "Please tell me a story."),
    ("joke", "Do you know a good joke?"),
    ("poem", "Please write a short poem."),
    ("shapes", "What shapes do you know about?"),
    ("colours", "Which colours can you name?"),
    ("weather", "How is the weather today in Paris?"),
    ("time", "Can you tell me what time it is?"),
    ("human", "Are you a real person?"),
    ("size", "How many parameters does this model have?"),
    ("trimodal", "What is Trimodal, please?"),
    ("long", "Please write a long text."),
)


@dataclass
class Case:
    """A conversation up to the question, and the only answer that counts as right."""

    kind: str
    messages: list[Message]
    pictures: list[Image.Image]
    expected: str


def fresh_scene(rng: random.Random, sizes: PictureSizes, count: int) -> Scene:
    """A scene of the training distribution that no training step drew."""
    return random_scene(rng, *sizes.size(rng, sizes.grid(rng)), count)


def on_picture(turn: Turn, scene: Scene, after: bool = False, mark: str = "") -> Case:
    """A question about one picture."""
    messages = [user(turn.question, 1, after)]
    return Case(turn.kind + mark, messages, [draw(scene)], turn.answer)


def scene_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Caption and three more questions for each of `number` scenes of 1, 2 and 3 items."""
    sizes = PictureSizes()
    for index in range(number):
        scene = fresh_scene(rng, sizes, 1 + index % 3)
        yield on_picture(caption(rng, scene), scene)
        for _ in range(3):
            yield on_picture(ask(rng, scene), scene)


def plain_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Captions of pictures drawn by other code; half of them hold one shape."""
    for index in range(number):
        count = (1, 2, 1, 3)[index % 4]
        picture, names = plain_picture(rng, count)
        answer = join([with_article(name) for name in names])
        kind = f"other drawing code: caption {count}"
        yield Case(kind, [user(rng.choice(ASKING), 1)], [picture], answer)


def layout_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Picture after the text, a system message, two pictures, a second turn."""
    sizes = PictureSizes()
    system = {"role": "system", "content": "You are a helpful assistant."}
    for index in range(number):
        scene, other = (fresh_scene(rng, sizes, 1 + (index + k) % 3) for k in (0, 1))
        yield on_picture(caption(rng, scene), scene, after=True, mark=", picture last")
        case = on_picture(ask(rng, scene), scene)
        yield Case("with a system message", [system, *case.messages], case.pictures, case.expected)
        pair = ask_pair(rng, scene, other)
        yield Case(pair.kind, [user(pair.question, 2)], [draw(scene), draw(other)], pair.answer)
        # The first answer is given, so that only the second is judged.
        first, second = ask(rng, scene), ask(rng, scene)
        reply = {"role": "assistant", "content": first.answer}
        messages = [user(first.question, 1), reply, user(second.question)]
        yield Case("second turn", messages, [draw(scene)], second.answer)


def text_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Small talk: single turns by kind, then the last turn of whole conversations."""
    for maker, _ in MAKERS:
        for _ in range(number):
            turn = maker(rng)
            kind = "chat: fixed answers" if turn.kind.startswith("chat: ") else f"chat: {turn.kind}"
            yield Case(kind, [user(turn.question)], [], turn.answer)
    for _ in range(2 * number):
        *before, last = conversation(rng)
        messages = []
        for turn in before:
            messages += [user(turn.question), {"role": "assistant", "content": turn.answer}]
        messages.append({"role": "user", "content": last.question})
        yield Case("chat: conversations", messages, [], last.answer)


def unseen_cases() -> Iterator[Case]:
    """Wordings that training never used."""
    answers = {name: answer for name, _, answer in FIXED}
    for name, question in UNSEEN:
        yield Case("chat: unseen wordings", [user(question)], [], answers[name])


def all_cases(seed: int, size: int) -> Iterator[Case]:
    """Every case; `size` scales the number."""
    yield from plain_cases(random.Random(f"plain/{seed}"), size)
    yield from scene_cases(random.Random(f"scenes/{seed}"), size)
    yield from layout_cases(random.Random(f"layout/{seed}"), size // 6)
    yield from text_cases(random.Random(f"text/{seed}"), size // 10)
    yield from unseen_cases()
