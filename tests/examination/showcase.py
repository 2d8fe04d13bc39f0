"""Writes docs/demo-models.md: ten pictures and ten recordings with what the running system really answers.

    python -m tests.examination.showcase --base-url http://127.0.0.1:8000/v1 --seed 1

The page is a sample of the examination, so its mistakes stay in it.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import openai
from PIL import Image

from tests.examination.pairs import ask_more
from tests.examination.papers import speech_paper
from tests.examination.prints import ask_number, word_maker
from tests.examination.question import Maker, Question
from tests.examination.questions import CAPTIONS, ask_count, ask_extreme, ask_where
from tests.examination.recordings import HELD_OUT_VOICE, Recording, read_samples, to_file
from tests.examination.served import Served
from tests.examination.styles import ask_for_json
from tests.examination.talk import read_words
from tests.examination.words import read_vocabulary

ROOT = Path(__file__).resolve().parents[2]
MAX_SIDE = 480
MAX_BYTES = 600_000
RECORDINGS = {
    "unseen sentences": 3,
    "held-out voice": 1,
    "8 kHz": 1,
    "noise 15 dB": 1,
    "no speech": 1,
    "German": 2,
    "German to English": 1,
}
_PAGE = """# What the demo models answer

{num_pictures} questions about pictures and {num_recordings} recordings, drawn and spoken by the examination in
`tests/examination/`, whose code shares nothing with the training, and the answers of the running system. They are the
first of their kinds that seed {seed} gives: nobody chose among them, and what is wrong stays on the page. {num_right}
of {num} answers are right.

    ./trimodal serve
    python -m tests.examination.showcase --base-url http://127.0.0.1:8000/v1 --seed {seed}

The whole examination has more than a thousand questions; the models' cards have its figures:
[demo-vl](../demo_models/demo-vl/README.md), [demo-whisper](../demo_models/demo-whisper/README.md).

## Pictures

{pictures}

## Recordings

{recordings}
"""


Answered = list[tuple[Question | Recording, str]]


def main(words: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(words)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[pr]*-*.*"):
        old.unlink()
    served = Served(openai.OpenAI(base_url=options.base_url, api_key="none"))
    vocabulary = read_vocabulary(options.speech_model / "vocabulary.txt")
    paper = speech_paper(options.seed, vocabulary, options.held_out_voice, share=0.1)
    pictures: Answered = [(asked, served.answer(asked)) for asked in pictures_of(options.seed, options.model)]
    recordings: Answered = [(asked, served.answer(asked)) for asked in recordings_of(paper)]
    page = write_page(folder, options.seed, pictures, recordings)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size <= MAX_BYTES, f"{folder} has {size} bytes, more than {MAX_BYTES}"
    print(f"{page}, {size} bytes of pictures and recordings")


def pictures_of(seed: int, model: Path) -> list[Question]:
    """The first question of each of ten kinds, its pictures made small enough for a page."""
    makers: tuple[Maker, ...] = (
        *(CAPTIONS[number] for number in (2, 3, 5)),
        *(ask_count, ask_where, ask_extreme, ask_number, partial(word_maker, read_words(model)), ask_more),
        ask_for_json,
    )
    questions = [maker(random.Random(f"{seed} {place}")) for place, maker in enumerate(makers)]
    return [replace(question, pictures=tuple(map(_small, question.pictures))) for question in questions]


def recordings_of(paper: Sequence[Recording]) -> list[Recording]:
    """The first ones of each kind, as compressed files."""
    found = [
        recording
        for kind, number in RECORDINGS.items()
        for recording in [recording for recording in paper if recording.kind == kind][:number]
    ]
    return [replace(recording, file=to_file(read_samples(recording.file), "OGG")) for recording in found]


def write_page(folder: Path, seed: int, pictures: Answered, recordings: Answered) -> Path:
    """Writes the files into `folder` and the page beside it; returns the page's path."""
    right = [asked.accepts(answer) for asked, answer in (*pictures, *recordings)]
    page = folder.with_suffix(".md")
    text = _PAGE.format(
        seed=seed,
        num_right=sum(right),
        num=len(right),
        num_pictures=len(pictures),
        num_recordings=len(recordings),
        pictures=_table(("picture", "question"), _picture_rows(folder, pictures)),
        recordings=_table(("recording", "said"), _recording_rows(folder, recordings)),
    )
    page.write_text(text, encoding="utf-8")
    return page


def _picture_rows(folder: Path, answered: Answered) -> Iterator[tuple[str, ...]]:
    for number, (asked, answer) in enumerate(answered, 1):
        assert isinstance(asked, Question)
        shown = []
        for letter, picture in zip("ab", asked.pictures, strict=False):
            file = folder / f"picture-{number}{letter if len(asked.pictures) > 1 else ''}.png"
            file.write_bytes(picture)
            shown.append(f'<img src="{folder.name}/{file.name}" alt="picture {number}" width="160">')
        yield " ".join(shown), _question_text(asked), *_verdict(asked, answer)


def _recording_rows(folder: Path, answered: Answered) -> Iterator[tuple[str, ...]]:
    for number, (asked, answer) in enumerate(answered, 1):
        assert isinstance(asked, Recording)
        file = folder / f"recording-{number}.ogg"
        file.write_bytes(asked.file)
        yield f"[{asked.kind}]({folder.name}/{file.name})", asked.text, *_verdict(asked, answer)


def _verdict(asked: Question | Recording, answer: str) -> tuple[str, str, str]:
    said, truth = (f"`{text}`" if text else "(empty)" for text in (answer, asked.answer))
    return said, truth, "right" if asked.accepts(answer) else "**wrong**"


def _question_text(question: Question) -> str:
    first = question.messages[0]
    return f"(system: {first['content']}) {question.text}" if first["role"] == "system" else question.text


def _table(columns: tuple[str, str], rows: Iterator[tuple[str, ...]]) -> str:
    head = (*columns, "the model's answer", "the right answer", "")
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _small(picture: bytes) -> bytes:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.examination.showcase", description=(__doc__ or "")[:118])
    parser.add_argument("--base-url", required=True, help="the running system, such as http://127.0.0.1:8000/v1")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "demo-models", help="folder of the files; FOLDER.md"
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed, other pictures and recordings")
    parser.add_argument("--model", type=Path, default=ROOT / "demo_models" / "demo-vl")
    parser.add_argument("--speech-model", type=Path, default=ROOT / "demo_models" / "demo-whisper")
    parser.add_argument("--held-out-voice", default=HELD_OUT_VOICE)
    return parser


if __name__ == "__main__":
    main()
