"""Text equals `generate` of Hugging Face on the same weights: alone, batched, prompted, translated, for long audio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from python_backends.audio.regions import GivenRegion
from python_backends.audio.transcription import Region, Transcription
from python_backends.audio.whisper_model import WhisperModel
from python_backends.audio.window_decoder import WindowDecoder
from python_backends.audio.windows import TEMPERATURES, DecodeOptions, Window
from python_backends.errors import InvalidInput, Unsupported
from tests.backends.audio import tiny_whisper
from tests.backends.audio.tiny_whisper import MELS, POSITIONS, WINDOW_FRAMES
from tests.backends.audio.windows import PLAIN, Array, decode, decode_all, facts, window

TIMED = replace(PLAIN, timestamps=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_whisper.save(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def model(folder: str) -> WhisperModel:
    return WhisperModel(folder)


@pytest.fixture
def decoder(model: WhisperModel) -> WindowDecoder:
    return WindowDecoder(model, num_slots=4)


@pytest.fixture(scope="module")
def reference(folder: str) -> Any:
    return WhisperForConditionalGeneration.from_pretrained(folder).eval()


def features(seed: int, frames: int = WINDOW_FRAMES) -> Array:
    return np.random.default_rng(seed).standard_normal((MELS, frames)).astype(np.float32)


def generated(reference: Any, model: WhisperModel, sound: Array, **options: Any) -> str:
    with torch.no_grad():
        tokens = reference.generate(torch.from_numpy(sound)[None], temperature=0.0, **options)
    return str(model.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0])


def decoded(decoder: WindowDecoder, windows: list[Window]) -> list[str]:
    return [text.text for text in decode(decoder, windows)]


def test_windows_that_come_and_go_equal_generate_for_each_alone(
    model: WhisperModel, decoder: WindowDecoder, reference: Any
) -> None:
    windows = [window(features(seed)) for seed in range(11)]
    wanted = [generated(reference, model, each.features, language="en", task="transcribe") for each in windows]
    assert decoded(decoder, windows) == wanted
    assert [decoded(decoder, [each])[0] for each in windows] == wanted
    assert len(set(wanted)) > 1, "the windows must differ for this to mean anything"


def test_different_options_share_a_step(model: WhisperModel, decoder: WindowDecoder, reference: Any) -> None:
    prompt = replace(PLAIN, prompt_ids=model.prompt_ids("said before"))
    options = [PLAIN, TIMED, replace(PLAIN, task="translate"), prompt]
    found = decoded(decoder, [window(features(3), options=each) for each in options])
    assert found == [decoded(decoder, [window(features(3), options=each)])[0] for each in options]
    assert len(set(found)) > 2


def test_languages_are_detected_one_by_one(model: WhisperModel, decoder: WindowDecoder, reference: Any) -> None:
    windows = [window(features(seed), "") for seed in range(8)]
    sounds = torch.from_numpy(np.stack([each.features for each in windows]))
    with torch.no_grad():
        detected = model.tokenizer.convert_ids_to_tokens(reference.detect_language(sounds))
    found = decode(decoder, [*windows, window(features(0), "<|fr|>")])
    assert [text.language for text in found] == [*detected, "<|fr|>"]
    assert [text.text for text in found[:-1]] == [
        generated(reference, model, each.features, task="transcribe") for each in windows
    ]


def test_task_and_prompt_reach_the_decoder(model: WhisperModel, decoder: WindowDecoder, reference: Any) -> None:
    prompt = model.prompt_ids("said before")
    for task in ("transcribe", "translate"):
        wanted = generated(reference, model, features(1), language="de", task=task, prompt_ids=torch.tensor(prompt))
        found = decoded(decoder, [window(features(1), "<|de|>", DecodeOptions(task, prompt))])
        assert "said before" not in found[0]
        # generate leaves the prompt out of long-form results only.
        assert [text.strip() for text in found] == [wanted.strip().removeprefix("said before").strip()]


@pytest.mark.parametrize("seed", range(4))
def test_timestamps_of_a_window_equal_generate(
    model: WhisperModel, decoder: WindowDecoder, reference: Any, seed: int
) -> None:
    sound = torch.from_numpy(features(seed))[None]
    options = {"language": "en", "task": "transcribe", "return_timestamps": True, "force_unique_generate_call": True}
    with torch.no_grad():
        wanted = reference.generate(sound, temperature=0.0, **options)[0].tolist()
    (found,) = decode(decoder, [window(features(seed), options=TIMED)])
    ids = [*model.start_ids("<|en|>", TIMED), *found.tokens, *([model.eos] if found.finished else [])]
    assert ids == wanted[: len(ids)]
    assert set(wanted[len(ids) :]) <= {model.eos}


@pytest.mark.parametrize("seed", range(4))
def test_long_audio_equals_generate(model: WhisperModel, decoder: WindowDecoder, reference: Any, seed: int) -> None:
    sound = features(seed, frames=730)
    job = Transcription(GivenRegion(Region(sound, 7.3)), "<|en|>", PLAIN, facts(model))
    decode_all(decoder, job)
    spoken = job.read()
    wanted = generated(reference, model, sound, language="en", task="transcribe", return_timestamps=True)
    assert "".join(model.text(each.segment.tokens) for each in spoken) == wanted
    starts = [each.segment.start for each in spoken]
    assert starts == sorted(starts)
    assert spoken[-1].segment.end <= 7.3


def test_earlier_text_is_context_where_that_is_wished(
    model: WhisperModel, decoder: WindowDecoder, reference: Any
) -> None:
    sound = features(2, frames=730)
    options = replace(PLAIN, condition_on_previous_text=True)
    job = Transcription(GivenRegion(Region(sound, 7.3)), "<|en|>", options, facts(model))
    decode_all(decoder, job)
    found = "".join(model.text(each.segment.tokens) for each in job.read())
    wishes: dict[str, Any] = {"language": "en", "task": "transcribe", "return_timestamps": True}
    assert found == generated(reference, model, sound, **wishes, condition_on_prev_tokens=True)
    assert found != generated(reference, model, sound, **wishes)


def test_a_text_that_does_not_end_says_so(tmp_path: Path) -> None:
    decoder = WindowDecoder(WhisperModel(tiny_whisper.save(tmp_path, max_length=8)), 8)
    texts = decode(decoder, [window(features(seed)) for seed in range(6)])
    unfinished = [text for text in texts if not text.finished]
    assert unfinished
    assert all(0 < len(text.tokens) <= POSITIONS for text in unfinished)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_rehearsal_leaves_nothing_behind(slots: int, model: WhisperModel) -> None:
    fresh, rehearsed = WindowDecoder(model, slots), WindowDecoder(model, slots)
    rehearsed.rehearse()
    assert rehearsed.num_free == slots
    assert decoded(rehearsed, [window(features(1))]) == decoded(fresh, [window(features(1))])


def test_a_long_prompt_leaves_room_for_the_text(model: WhisperModel, decoder: WindowDecoder) -> None:
    prompt = model.prompt_ids("word " * 200)
    assert len(prompt) == POSITIONS // 2
    assert prompt[0] == model.tokenizer.convert_tokens_to_ids("<|startofprev|>")
    (text,) = decode(decoder, [window(features(2), options=replace(PLAIN, prompt_ids=prompt))])
    assert len(prompt) + 4 + len(text.tokens) <= POSITIONS


def test_sampling_follows_the_temperature_and_the_seed(decoder: WindowDecoder) -> None:
    hot = replace(PLAIN, temperatures=(1.0,))
    texts = decoded(decoder, [window(features(1), options=hot)] * 1 + [window(features(1), options=hot)])
    assert len(set(texts)) > 1
    seeded = [window(features(1), options=replace(hot, seed=5)) for _ in range(3)]
    assert len(set(decoded(decoder, seeded))) == 1


def test_a_doubted_text_is_tried_at_every_temperature(decoder: WindowDecoder) -> None:
    tried, plain = decode(
        decoder, [window(features(1), options=replace(PLAIN, temperatures=TEMPERATURES, seed=1)), window(features(1))]
    )
    assert plain.avg_logprob < -1, "random weights are never sure"
    assert (tried.temperature, plain.temperature) == (1.0, 0.0)
    assert tried.text != plain.text
    assert decoder.running == []


class Telling(WhisperForConditionalGeneration):
    """The library's model, which notes what it decides about the text of each try: (try again, nobody speaks)."""

    def _need_fallback(self, *arguments: Any) -> tuple[bool, bool]:
        decided: tuple[bool, bool] = super()._need_fallback(*arguments)
        self.__dict__.setdefault("decided", []).append(decided)
        return decided


@pytest.mark.parametrize(
    ("ratio", "logprob", "no_speech"), [(2.0, None, None), (None, -2.6, None), (2.0, -2.6, 0.0035), (1.35, -1.0, 0.6)]
)
@pytest.mark.parametrize("timestamps", [False, True])
def test_doubts_equal_those_of_generate(
    folder: str, timestamps: bool, ratio: float | None, logprob: float | None, no_speech: float | None
) -> None:
    """The decision about the text of temperature 0; what is drawn after it is another in every library."""
    model, reference = WhisperModel(folder), Telling.from_pretrained(folder).eval()
    limits = {"compression_ratio_threshold": ratio, "logprob_threshold": logprob, "no_speech_threshold": no_speech}
    for name, limit in limits.items():
        setattr(model.network.generation_config, name, limit)
    decoder = WindowDecoder(model, 8)
    options = replace(PLAIN, timestamps=timestamps, temperatures=(0.0, 1.0), seed=3)
    windows = [window(features(seed), options=options) for seed in range(16)]
    found = decode(decoder, windows)
    wishes: dict[str, Any] = {"language": "en", "task": "transcribe", "return_timestamps": timestamps, **limits}
    wanted = []
    for each in windows:
        reference.__dict__["decided"] = []
        with torch.no_grad():
            reference.generate(torch.from_numpy(each.features)[None], temperature=(0.0, 1.0), **wishes)
        wanted.append(reference.__dict__["decided"][0])
    assert [text.temperature > 0 for text in found] == [again for again, _ in wanted]
    assert [not text.tokens for text in found if text.temperature == 0] == [
        silent for again, silent in wanted if not again
    ]
    assert len(set(wanted)) > 1 or ratio == 1.35, "random weights are never sure"


def test_log_probabilities_are_those_of_generate(model: WhisperModel, decoder: WindowDecoder, reference: Any) -> None:
    (found,) = decode(decoder, [window(features(4))])
    ids = torch.tensor([[*model.start_ids("<|en|>", PLAIN), *found.tokens]])
    with torch.no_grad():
        logits = reference(torch.from_numpy(features(4))[None], decoder_input_ids=ids).logits[0]
    begin = len(model.start_ids("<|en|>", PLAIN))
    wanted = logits.log_softmax(-1)[begin - 1 : -1].gather(-1, ids[0, begin:, None])[:, 0]
    assert np.abs(np.array(found.logprobs) - wanted.numpy()).max() < 1e-4


def test_no_sound_is_no_text(decoder: WindowDecoder) -> None:
    flat = window(np.full((MELS, WINDOW_FRAMES), -1.5, np.float32))
    silent, spoken = decode(decoder, [flat, window(features(1))])
    assert (silent.tokens, silent.finished) == ((), True)
    assert spoken.tokens


def test_what_the_model_takes_for_silence_is_no_text_unless_it_is_sure(folder: str) -> None:
    model = WhisperModel(folder)
    decoder, network = WindowDecoder(model, 1), model.network
    no_speech = model.tokenizer.convert_tokens_to_ids("<|nospeech|>")
    start = torch.tensor([[model.start]])
    decoder._rules._suppressed = [no_speech]
    with torch.no_grad():
        # Make <|nospeech|> the most likely first token.
        encoded = model.encode([window(features(1))])
        states = network.model.decoder(input_ids=start, encoder_hidden_states=encoded)
        network.proj_out.weight[no_speech] = states.last_hidden_state[0, -1]
        network.proj_out.weight *= 3
        assert decode(decoder, [window(features(1))])[0].tokens, "the text is still as sure as before"
        network.proj_out.weight /= 30
        network.proj_out.weight[no_speech] *= 10
    assert decode(decoder, [window(features(1))])[0].tokens == ()


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
    options = DecodeOptions(model.task_name("transcribe"))
    windows = [window(features(seed), "", options) for seed in range(3)]
    assert decoded(WindowDecoder(model, 2), windows) == [
        generated(reference, model, features(seed)) for seed in range(3)
    ]
    assert model.language_token("English") == "<|en|>"
    with pytest.raises(InvalidInput, match="only English"):
        model.language_token("de")
    with pytest.raises(Unsupported, match="cannot translate"):
        model.task_name("translate")
