"""The forms of answers: brief, in full sentences, in JSON.

Knows how things are called; which of the forms is wanted is for the system message to say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from training.vision_language.pixels import Picture
from training.vision_language.prints import Print
from training.vision_language.scenes import Item, Scene

STYLES = ("brief", "full", "json")


@dataclass(frozen=True)
class Turn:
    """One question with its answer; `kind` names the skill for the evaluation.

    `full` is the answer in a sentence (the same, if empty), `structure` the JSON if it is more
    than the answer in an object. An answer that is not `learnt` is one that others might have given.
    """

    kind: str
    question: str
    answer: str
    full: str = ""
    structure: str = ""
    learnt: bool = True

    def reply(self, style: str) -> str:
        """The answer in one of STYLES."""
        if style == "json":
            return self.structure or json.dumps({"answer": self.answer})
        return (self.full or self.answer) if style == "full" else self.answer


def with_article(words: str) -> str:
    """`a red circle`, `an orange star`."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plain_name(item: Item) -> str:
    """The item in words, without an article."""
    return f"{item.colour} {item.shape}"


def name_of(item: Item) -> str:
    """The item in words, with its article."""
    return with_article(plain_name(item))


def join(names: list[str]) -> str:
    """Names as an English list."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def caption_of(picture: Picture) -> str:
    """The picture's caption."""
    if isinstance(picture, Print):
        return f"the {'number' if picture.text.isdigit() else 'word'} {picture.answer}"
    return join([name_of(item) for item in picture.items])


def objects_json(scene: Scene) -> str:
    """The caption as JSON."""
    return json.dumps({"objects": [{"color": item.colour, "shape": item.shape} for item in scene.items]})


def number_of(count: int, what: str) -> str:
    """`There are 3 red circles.`"""
    return f"There is 1 {what}." if count == 1 else f"There are {count} {what}s."
