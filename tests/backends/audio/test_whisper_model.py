"""Text equals `generate` of Hugging Face on the same weights: alone, batched, prompted, translated, for long audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from python_backends.audio.transcription import Recording, Transcription
from python_backends.audio.whisper_model import DecodeOptions, WhisperModel, Window
from python_backends.errors import InvalidInput, Unsupported
from tests.backends.audio import tiny_whisper
from tests.backends.audio.tiny_whisper import MELS, POSITIONS, WINDOW_FRAMES

Array = np.ndarray[Any, Any]
PLAIN = DecodeOptions(task="transcribe", prompt_ids=(), temperature=0.0, timestamps=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_whisper.save(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def model(folder: str) -> WhisperModel:
    return WhisperModel(folder)


@pytest.fixture(scope="module")
def reference(folder: str) -> Any:
    return WhisperForConditionalGeneration.from_pretrained(folder).eval()


def features(seed: int, frames: int = WINDOW_FRAMES) -> Array:
    return np.random.default_rng(seed).standard_normal((MELS, frames)).astype(np.float32)


def generated(reference: Any, model: WhisperModel, sound: Array, **options: Any) -> str:
    with torch.no_grad():
        tokens = reference.generate(torch.from_numpy(sound)[None], temperature=0.0, **options)
    return str(model.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]).strip()


def decoded(model: WhisperModel, windows: list[Window], options: DecodeOptions) -> list[str]:
    return [model.text(found.tokens) for found in model.decode(windows, options)]


def test_a_batch_equals_generate_for_each_window_alone(model: WhisperModel, reference: Any) -> None:
    windows = [Window(features(seed), "<|en|>") for seed in range(6)]
    wanted = [generated(reference, model, window.features, language="en", task="transcribe") for window in windows]
    assert decoded(model, windows, PLAIN) == wanted
    assert [decoded(model, [window], PLAIN)[0] for window in windows] == wanted
    assert len(set(wanted)) > 1, "the windows must differ for this to mean anything"


def test_languages_are_detected_one_by_one(model: WhisperModel, reference: Any) -> None:
    windows = [Window(features(seed), "") for seed in range(8)]
    sounds = torch.from_numpy(np.stack([window.features for window in windows]))
    with torch.no_grad():
        detected = model.tokenizer.convert_ids_to_tokens(reference.detect_language(sounds))
    found = model.decode([*windows, Window(features(0), "<|fr|>")], PLAIN)
    assert [text.language for text in found] == [*detected, "<|fr|>"]
    assert [model.text(text.tokens) for text in found[:-1]] == [
        generated(reference, model, window.features, task="transcribe") for window in windows
    ]


def test_task_and_prompt_reach_the_decoder(model: WhisperModel, reference: Any) -> None:
    prompt = model.prompt_ids("said before")
    for task in ("transcribe", "translate"):
        options = DecodeOptions(task, prompt, 0.0, timestamps=False)
        wanted = generated(reference, model, features(1), language="de", task=task, prompt_ids=torch.tensor(prompt))
        found = decoded(model, [Window(features(1), "<|de|>")], options)
        assert "said before" not in found[0]
        # generate leaves the prompt out of long-form results only.
        assert found == [wanted.removeprefix("said before").strip()]


@pytest.mark.parametrize("seed", range(4))
def test_long_audio_equals_generate(model: WhisperModel, reference: Any, seed: int) -> None:
    sound = features(seed, frames=730)
    job = Transcription(Recording(sound, 7.3), "<|en|>", WINDOW_FRAMES, model.timestamp_begin)
    options = DecodeOptions("transcribe", (), 0.0, timestamps=True)
    while not job.done:
        (found,) = model.decode([Window(job.window(), job.language)], options)
        job.add(found.tokens, found.language, found.finished)
    wanted = generated(reference, model, sound, language="en", task="transcribe", return_timestamps=True)
    assert model.text(job.tokens) == wanted
    starts = [segment.start for segment in job.segments]
    assert starts == sorted(starts)
    assert job.segments[-1].end <= 7.3


def test_a_text_that_does_not_end_says_so(tmp_path: Path) -> None:
    model = WhisperModel(tiny_whisper.save(tmp_path, max_length=8))
    texts = model.decode([Window(features(seed), "<|en|>") for seed in range(6)], PLAIN)
    unfinished = [text for text in texts if not text.finished]
    assert unfinished
    assert all(0 < len(text.tokens) <= POSITIONS for text in unfinished)


def test_a_long_prompt_leaves_room_for_the_text(model: WhisperModel) -> None:
    prompt = model.prompt_ids("word " * 200)
    assert len(prompt) == POSITIONS // 2
    assert prompt[0] == model.tokenizer.convert_tokens_to_ids("<|startofprev|>")
    (text,) = model.decode([Window(features(2), "<|en|>")], DecodeOptions("transcribe", prompt, 0.0, False))
    assert len(prompt) + 4 + len(text.tokens) <= POSITIONS


def test_sampling_follows_the_temperature(model: WhisperModel) -> None:
    hot = DecodeOptions("transcribe", (), 1.0, timestamps=False)
    torch.manual_seed(5)
    texts = {decoded(model, [Window(features(1), "<|en|>")], hot)[0] for _ in range(4)}
    assert len(texts) > 1


def test_no_sound_is_no_text(model: WhisperModel) -> None:
    flat = Window(np.full((MELS, WINDOW_FRAMES), -1.5, np.float32), "<|en|>")
    silent, spoken = model.decode([flat, Window(features(1), "<|en|>")], PLAIN)
    assert (silent.tokens, silent.finished) == ((), True)
    assert spoken.tokens


def test_what_the_model_takes_for_silence_is_no_text_unless_it_is_sure(folder: str) -> None:
    model = WhisperModel(folder)
    window, network = Window(features(1), "<|en|>"), model._model
    no_speech = model.tokenizer.convert_tokens_to_ids("<|nospeech|>")
    start = torch.tensor([[model.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")]])
    network.generation_config.suppress_tokens = [no_speech]
    with torch.no_grad():
        # Make <|nospeech|> the most likely first token.
        states = network.model.decoder(input_ids=start, encoder_hidden_states=model._encode([window]))
        network.proj_out.weight[no_speech] = states.last_hidden_state[0, -1]
        network.proj_out.weight *= 3
        assert model.decode([window], PLAIN)[0].tokens, "the text is still as sure as before"
        network.proj_out.weight /= 30
        network.proj_out.weight[no_speech] *= 10
    assert model.decode([window], PLAIN)[0].tokens == ()


@pytest.mark.parametrize("name", ["de", "German", "german", "<|de|>", " DE "])
def test_languages_have_several_names(model: WhisperModel, name: str) -> None:
    assert model.language_token(name) == "<|de|>"


def test_unknown_options_are_refused_by_name(model: WhisperModel) -> None:
    for call, field in [
        (lambda: model.language_token("xx"), "language"),
        (lambda: model.language_token("es"), "language"),
        (lambda: model.task_name("sing"), "task"),
        (lambda: model.prompt_ids("<|en|>"), "prompt"),
    ]:
        with pytest.raises(InvalidInput) as caught:
            call()
        assert caught.value.field == field


def test_english_only_checkpoints(tmp_path: Path) -> None:
    model = WhisperModel(tiny_whisper.save(tmp_path, multilingual=False))
    reference = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    options = DecodeOptions(model.task_name("transcribe"), (), 0.0, timestamps=False)
    found = decoded(model, [Window(features(seed), "") for seed in range(3)], options)
    assert found == [generated(reference, model, features(seed)) for seed in range(3)]
    assert model.language_token("English") == "<|en|>"
    with pytest.raises(InvalidInput, match="only English"):
        model.language_token("de")
    with pytest.raises(Unsupported, match="cannot translate"):
        model.task_name("translate")
