"""What the evaluation asks: fresh pictures from unused seeds, and wordings nobody trained on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from training.vision_language.answers import Turn, join, with_article
from training.vision_language.batches import random_system
from training.vision_language.chat import MAKERS, conversation
from training.vision_language.intents import CANNOT_KNOW, FIXED, PRINTED
from training.vision_language.pairs import ask_pair
from training.vision_language.pixels import PictureSizes, draw_any
from training.vision_language.plain import plain_picture, plain_print
from training.vision_language.prints import found_fonts, random_print
from training.vision_language.questions import ASKERS, ask, ask_print, caption
from training.vision_language.runner import Message, user
from training.vision_language.scenes import Scene, random_scene
from training.vision_language.tools import Offer
from training.vision_language.warmup import random_pictures

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
    ("", "How is the weather in Paris today?"),
    ("", "Can you tell me what time it is?"),
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
    tools: list[Any] = field(default_factory=list)


def fresh_scene(rng: random.Random, sizes: PictureSizes, count: int) -> Scene:
    """A scene of the training distribution that no training step drew."""
    return random_scene(rng, *sizes.size(rng, sizes.grid(rng)), count)


def plain_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Captions and counts of pictures drawn by other code, with one to five shapes."""
    for index in range(number):
        count = 1 + index % 5
        picture, names = plain_picture(rng, count)
        answer = join([with_article(name) for name in names])
        yield Case(f"other drawing code: caption {count}", [user(rng.choice(ASKING), 1)], [picture], answer)
        asked = user("How many objects are there?", 1)
        yield Case("other drawing code: count all", [asked], [picture], str(count))


def print_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Numbers and words in fonts that training never saw, drawn by other code and by its own."""
    sizes = PictureSizes()
    for index in range(number):
        font = rng.choice(found_fonts(held_out=True))
        text = str(rng.randint(0, 10 ** rng.randint(1, 4) - 1)) if index % 2 else rng.choice(PRINTED)
        shown = text.upper() if rng.random() < 0.3 else text
        sort = "number" if index % 2 else "word"
        question = user(rng.choice(("Read the text.", f"What {sort} is printed?", "What does it say?")), 1)
        yield Case(f"other drawing code: {sort}, unseen font", [question], [plain_print(rng, shown, font)], text)
        scene = random_print(rng, *sizes.size(rng, sizes.grid(rng)), held_out=True)
        turn = ask_print(rng, scene)
        yield Case(f"{turn.kind.split()[-1]}, unseen font", [user(turn.question, 1)], [draw_any(scene)], turn.answer)


def scene_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Every kind of question `number` times of scenes of 1 to 3 items, half as often of 4 and 5."""
    sizes = PictureSizes()
    for counts, mark, share in (((1, 2, 3), " (1 to 3)", 1.0), ((4, 5), " (4, 5)", 0.5)):
        for count in counts:
            for _ in range(number):
                scene = fresh_scene(rng, sizes, count)
                turn = caption(rng, scene)
                yield Case(turn.kind, [user(turn.question, 1)], [draw_any(scene)], turn.answer)
        for asker, _ in ASKERS[1:]:
            asked = 0
            while asked < number * share:
                scene = fresh_scene(rng, sizes, rng.choice(counts))
                answered = asker(rng, scene)
                if answered is not None:
                    asked += 1
                    pictures = [draw_any(scene)]
                    yield Case(answered.kind + mark, [user(answered.question, 1)], pictures, answered.answer)


def layout_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Picture after the text, system messages, a second turn."""
    sizes = PictureSizes()
    for index in range(number):
        picture = random_pictures(rng, sizes, sizes.grid(rng), 1)[0]
        turn = ask(rng, picture)
        yield Case("picture last", [user(turn.question, 1, True)], [draw_any(picture)], turn.answer)
        system, style = "", ""
        while style != ("brief", "full", "json")[index % 3]:
            system, style = random_system(rng)
        messages = [{"role": "system", "content": system}, user(turn.question, 1)]
        yield Case(f"style: {style}", messages[not system :], [draw_any(picture)], turn.reply(style))
        # The first answer is given, so that only the second is judged.
        first, second = ask(rng, picture), ask(rng, picture)
        reply = {"role": "assistant", "content": first.answer}
        messages = [user(first.question, 1), reply, user(second.question)]
        yield Case("second turn", messages, [draw_any(picture)], second.answer)


def pair_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Questions about two pictures, which may have different sizes."""
    sizes = PictureSizes()
    for _ in range(number):
        odds = (1, 4, 5, 4, 1, 1)
        pair = [random_pictures(rng, sizes, sizes.grid(rng), 1, odds)[0] for _ in range(2)]
        turn = ask_pair(rng, *pair)
        yield Case(turn.kind, [user(turn.question, 2)], [draw_any(p) for p in pair], turn.answer)


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


def called(turn: Turn) -> Message:
    """The assistant's message with a call, as a client sends it back."""
    call = json.loads(turn.answer.split("\n")[1])
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}


def tool_cases(rng: random.Random, number: int) -> Iterator[Case]:
    """Calls, answers from results, and questions for a tool that is not there."""
    for index in range(number):
        offer = Offer(rng, 1 + index % 3)
        turns = offer.use(rng)
        while len(turns) < 2:
            turns = offer.use(rng)
        asked = [user(turns[0].question)]
        yield Case("tools: call", asked, [], turns[0].answer, offer.schemas)
        content = turns[1].question.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")
        messages = [*asked, called(turns[0]), {"role": "tool", "content": content}]
        yield Case("tools: answer", messages, [], turns[1].answer, offer.schemas)
        lacking = offer.lacking(rng)
        yield Case("tools: not offered", [user(lacking.question)], [], lacking.answer, offer.schemas)


def unseen_cases() -> Iterator[Case]:
    """Wordings that training never used."""
    answers = {name: answer for name, _, answer in FIXED} | {"": CANNOT_KNOW}
    for name, question in UNSEEN:
        yield Case("chat: unseen wordings", [user(question)], [], answers[name])


def all_cases(seed: int, size: int) -> Iterator[Case]:
    """Every case; `size` scales the number."""
    yield from plain_cases(random.Random(f"plain/{seed}"), size * 3 // 2)
    yield from print_cases(random.Random(f"prints/{seed}"), size * 3 // 5)
    yield from scene_cases(random.Random(f"scenes/{seed}"), size * 3 // 10)
    yield from layout_cases(random.Random(f"layout/{seed}"), size * 9 // 10)
    yield from pair_cases(random.Random(f"pairs/{seed}"), size * 13 // 10)
    yield from text_cases(random.Random(f"text/{seed}"), size * 3 // 10)
    yield from tool_cases(random.Random(f"tools/{seed}"), size * 3 // 10)
    yield from unseen_cases()
