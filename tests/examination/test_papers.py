"""The examination itself is right: its pictures show what it says, and a wrong answer is counted as one."""

from __future__ import annotations

import io
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.examination.canvas import Style, Thing
from tests.examination.papers import vision_paper
from tests.examination.prints import print_text
from tests.examination.question import Question, call_text, listed, user
from tests.examination.questions import caption
from tests.examination.recordings import Recording, noisy, read_samples, to_file, tone
from tests.examination.results import Result, rows, table
from tests.examination.scenes import Scene, differ_in_size, draw_scene
from tests.examination.sentences import english, german, unmistakable
from tests.examination.talk import WORDS
from tests.examination.words import ENGLISH, GERMAN, read_vocabulary

WHITE = (255, 255, 255)
PLAIN = Style((WHITE, WHITE), smooth=False, outlined=False, format="PNG")
SHORT = 0.01

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_a_seed_repeats_a_paper() -> None:
    words = tuple(WORDS.split())
    assert vision_paper(7, words, SHORT) == vision_paper(7, words, SHORT) != vision_paper(8, words, SHORT)


@pytest.mark.parametrize("num_things", [1, 2, 3, 4, 5])
def test_a_picture_shows_its_things_and_nothing_else(num_things: int) -> None:
    for seed in range(4):
        scene = replace(draw_scene(random.Random(seed), num_things), style=PLAIN)
        image = Image.open(io.BytesIO(scene.picture()))
        for thing in scene.things:
            center = (round(thing.x), round(thing.y))
            assert image.getpixel(center) == thing.fill
            ImageDraw.floodfill(image, center, WHITE)
        # The fill does not reach pixels at a star's tip that hang together by a corner.
        left = int((np.asarray(image).min(axis=-1) < 255).sum())
        assert left <= 0.01 * sum(thing.area for thing in scene.things), f"seed {seed}: {scene}"
        assert len(scene.things) == num_things


def test_a_printed_text_lies_within_the_picture() -> None:
    for seed in range(10):
        pixels = np.asarray(Image.open(io.BytesIO(print_text(random.Random(seed), "8024"))).convert("L"), int)
        inner = pixels[1:-1, 1:-1]
        assert pixels.max() - inner.min() > 60, f"seed {seed}"
        assert pixels.max() - pixels[:, [0, -1]].min() < 60, f"seed {seed}"


def test_truths_of_a_scene_made_by_hand() -> None:
    small = Thing("red", "circle", 40, 50, 10)
    large = Thing("orange", "square", 150, 250, 30)
    scene = Scene((300, 300), PLAIN, (small, large))
    assert caption(scene) == "a red circle and an orange square"
    assert (scene.place(small), scene.place(large)) == ("top left", "bottom")
    assert scene.place(replace(small, x=110)) is None
    assert (scene.count(), scene.count("red"), scene.count("red", "square")) == (2, 1, 0)
    assert differ_in_size(small, large) and not differ_in_size(small, replace(small, radius=11))
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_only_the_right_answer_is_accepted() -> None:
    question = Question("text: count", (user("Count to 3."),), "1 2 3")
    assert question.accepts("1 2 3\n") and not question.accepts("1 2 3 4")
    pattern = replace(question, answer=r"\bAnna\b", is_pattern=True)
    assert pattern.accepts("Your name is Anna.") and not pattern.accepts("Your name is Annabel.")
    assert call_text("roll_dice", '{"sides":6}') == call_text("roll_dice", {"sides": 6}) != call_text("roll_dice", "6}")


def test_mistakes_are_counted() -> None:
    spoken = Recording("unseen sentences", b"", "", "one two three four")
    results = [Result(spoken, "One two, three four", "one two three four"), Result(spoken, "one two", "refused: no")]
    row = rows(results)["unseen sentences"]
    assert (row.direct, row.served, row.same, row.direct_wer) == (0.5, 0.5, 0.0, 0.25)
    assert not row.is_refused and len(row.wrong()) == 1
    assert "unseen sentences                    2   50.0%   50.0%    0.0%  25.0%" in table(results)


def test_noise_has_the_level_that_it_says() -> None:
    length = 16_000
    clean = tone(random.Random(1), length)
    noise = read_samples(noisy(to_file(clean), random.Random(2))) - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(15, abs=1)


@needs_espeak
def test_sentences_keep_to_the_vocabulary(tmp_path: Path) -> None:
    known = {"en": _words(ENGLISH) | {"the", "is", "and", "where", "call", "plus"}, "de": {"ist", "und", "wo"}}
    known["de"] |= {word for pairs in GERMAN.values() for pair in pairs for word in pair.split("=")[0].split()}
    file = tmp_path / "vocabulary.txt"
    file.write_text("".join(f"{code}\t{word}\n" for code, words in known.items() for word in words), encoding="utf-8")
    vocabulary = read_vocabulary(file)
    sentences = english(random.Random(1), vocabulary, 80)
    assert len(set(sentences)) == 80 and set(" ".join(sentences).split()) <= known["en"]
    pairs = dict(german(random.Random(1), vocabulary, 30))
    assert len(pairs) == 30 and set(" ".join(pairs).split()) <= known["de"]
    assert set(" ".join(pairs.values()).split()) <= known["en"]


@needs_espeak
def test_words_that_sound_alike_do_not_stand_alone() -> None:
    assert unmistakable({"son", "sun", "tree", "a"}) == ["tree"]


def _words(lists: dict[str, list[str]]) -> set[str]:
    return {word for values in lists.values() for value in values for word in value.split()}
