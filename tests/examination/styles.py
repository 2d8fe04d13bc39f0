"""Answers in another form, by a system message: briefly, in full sentences, or as JSON."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

from tests.examination.prints import ask_to_read
from tests.examination.question import Maker, Question, system
from tests.examination.questions import (
    CAPTION,
    COUNT_ALL,
    about,
    ask_color,
    ask_count,
    ask_count_all,
    ask_is_there,
    ask_shape,
    ask_side,
    ask_where,
    caption,
)
from tests.examination.scenes import scenes

BRIEFLY = ("Answer briefly.", "Please answer briefly.", "Keep your answers short.", "Give short answers.")
SENTENCES = (
    "Answer in full sentences.",
    "Please answer in full sentences.",
    "Use full sentences.",
    "Always answer in complete sentences.",
)
JSON = ("Answer in JSON.", "Please answer in JSON.", "Answer with JSON only.", "Give your answers as JSON.")
_PLAIN: tuple[Maker, ...] = (ask_color, ask_count, ask_is_there, ask_shape, ask_side, ask_where, ask_to_read)


def ask_briefly(dice: random.Random) -> Question:
    return _styled("style: brief", dice.choice(BRIEFLY), dice.choice(_PLAIN)(dice))


def ask_for_sentences(dice: random.Random) -> Question:
    """Captions, counts and yes or no: the questions whose sentences are laid down."""
    question = dice.choice((_caption, _count_all, ask_is_there))(dice)
    if question.answer in ("yes", "no"):
        question = replace(question, answer=_yes_or_no(question), is_pattern=True)
    elif question.answer.isdigit():
        question = replace(question, answer=f"There are {question.answer} objects.")
    else:
        question = replace(question, answer=f"The picture shows {question.answer}.")
    return _styled("style: sentences", dice.choice(SENTENCES), question)


def ask_for_json(dice: random.Random) -> Question:
    if dice.random() < 0.4:
        scene = next(scenes(dice, (1, 2, 2, 3, 3)))
        objects = [{"color": thing.color, "shape": thing.shape} for thing in scene.things]
        question = about(dice, "", scene, dice.choice(CAPTION), json.dumps({"objects": objects}))
    else:
        question = dice.choice((ask_count_all, *_PLAIN))(dice)
        question = replace(question, answer=json.dumps({"answer": question.answer}))
    return _styled("style: JSON", dice.choice(JSON), question)


def _caption(dice: random.Random) -> Question:
    scene = next(scenes(dice, (1, 2, 2, 3, 3)))
    return about(dice, "", scene, dice.choice(CAPTION), caption(scene))


def _count_all(dice: random.Random) -> Question:
    """Of two objects or more: how the sentence for one goes is not laid down."""
    scene = next(scenes(dice, (2, 3, 4, 5)))
    return about(dice, "", scene, dice.choice(COUNT_ALL[:2]), str(scene.count()))


def _yes_or_no(question: Question) -> str:
    """The pattern of `Yes, there is a red star.`; a no may be said in two ways."""
    found = re.search(r"\b(an?) (.+?)( in the picture)?\?", question.text)
    assert found, question.text
    article, thing = found.group(1), found.group(2)
    said = (
        f"Yes, there is {article} {thing}" if question.answer == "yes" else f"No, there is (no|not {article}) {thing}"
    )
    return rf"^{said}( in the picture)?\.$"


def _styled(kind: str, message: str, question: Question) -> Question:
    return replace(question, kind=kind, messages=(system(message), *question.messages))


STYLES: tuple[Maker, ...] = (ask_briefly, ask_for_sentences, ask_for_json)
