"""`serve --model DIR --speech-model DIR`: a user's own folders, greedy text equal to transformers' `generate`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soundfile

from tests.checkpoints import random_vl, random_whisper, vl_text, whisper_text
from tests.conftest import System, serve
from tests.native import number, stream, text
from tests.pictures import draw, part

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return random_vl(tmp_path_factory.mktemp("vl")), random_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def client(own: System) -> Iterator[openai.OpenAI]:
    with own.client() as client:
        yield client


@pytest.fixture(scope="module")
def own(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    chat, speech = map(str, folders)
    flags = ("--model", chat, "--served-model-name", "own", "--speech-model", speech, "--max-model-len", "1024")
    with serve(tmp_path_factory.mktemp("own"), *flags, "--dtype", "float32") as running:
        yield running


RED, BLUE = draw(("red", "circle")), draw(("blue", "square"))


@pytest.mark.parametrize("pictures", [[], [RED], [BLUE, RED]])
def test_chat_text_equals_generate(client: openai.OpenAI, folders: tuple[Path, Path], pictures: list[bytes]) -> None:
    question = {"type": "text", "text": "compare them"}
    plain: Any = [{"role": "user", "content": [{"type": "image"}] * len(pictures) + [question]}]
    sent: Any = [{"role": "user", "content": [*map(part, pictures), question]}]
    answer = client.chat.completions.create(model="own", messages=sent, max_tokens=24, temperature=0)
    assert answer.choices[0].message.content == vl_text(folders[0], plain, pictures, 24)


def test_chats_at_the_same_time_equal_generate(client: openai.OpenAI, folders: tuple[Path, Path]) -> None:
    def ask(question: str) -> str | None:
        messages: Any = [{"role": "user", "content": question}]
        answer = client.chat.completions.create(model="own", messages=messages, max_tokens=24, temperature=0)
        return answer.choices[0].message.content

    questions = [" ".join(["tell me more"] * n) for n in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, questions))
    assert answers == [vl_text(folders[0], [{"role": "user", "content": text}], [], 24) for text in questions]


def test_transcript_equals_generate(own: System, folders: tuple[Path, Path]) -> None:
    samples = np.sin(np.arange(32_000) * 0.05).astype(np.float32) * 0.3
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT")
    # Named, temperature 0 is all that is tried; the gateway would let a doubtful text be drawn again.
    options = {"language": text("en"), "temperature": number(0, np.float32)}
    (heard,) = stream(own.grpc, "whisper", {"audio": text(file.getvalue()), **options})
    assert heard["text"].item().decode() == whisper_text(folders[1], samples)
