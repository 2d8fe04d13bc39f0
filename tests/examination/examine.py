"""Asks a checkpoint everything, through transformers and, if there is one, through the running system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from tests.examination.direct import DirectChat, DirectSpeech
from tests.examination.papers import speech_paper, vision_paper
from tests.examination.question import Question
from tests.examination.recordings import Recording
from tests.examination.results import Result
from tests.examination.served import Served
from tests.examination.talk import read_words
from tests.examination.words import read_vocabulary

# Callers of the running system at a time, so that it has something to batch.
_CALLERS = 4

A = TypeVar("A", Question, Recording)


def examine_chat(model: Path, seed: int, served: Served | None = None, share: float = 1.0) -> list[Result]:
    """`share` below 1 makes the paper shorter."""
    return _examine(vision_paper(seed, read_words(model), share), DirectChat(model).answer, served)


def examine_speech(
    model: Path, seed: int, held_out_voice: str, served: Served | None = None, share: float = 1.0
) -> list[Result]:
    """The words are those of the vocabulary.txt beside the checkpoint."""
    paper = speech_paper(seed, read_vocabulary(model / "vocabulary.txt"), held_out_voice, share)
    return _examine(paper, DirectSpeech(model).answer, served)


def _examine(paper: Sequence[A], direct: Callable[[A], str], served: Served | None) -> list[Result]:
    # Threads of a model this small mostly wait for each other.
    torch.set_num_threads(1)
    first = [direct(asked) for asked in paper]
    if served is None:
        return [Result(asked, answer, None) for asked, answer in zip(paper, first, strict=True)]
    with ThreadPoolExecutor(_CALLERS) as callers:
        second = list(callers.map(served.answer, paper))
    return [Result(asked, *answers) for asked, *answers in zip(paper, first, second, strict=True)]
