"""Evaluate a model folder through ``from_pretrained`` and ``generate`` and write its model card.

``python -m training.speech.evaluate demo_models/demo-whisper`` measures word error rate (jiwer),
the share of texts that are exactly right, times of segments and words, language detection and
silence. Greedy decoding on full 30 s windows, as a server does it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.utils import logging

from training.speech import card, tokenizer
from training.speech.conditions import Condition, conditions
from training.speech.figures import Figures, Score, TimeScore
from training.speech.sounds import SAMPLE_RATE
from training.speech.utterances import Clip

_BATCH = 10
_NEW_TOKENS = 120

Times = list[tuple[float, float]]


class Recognizer:
    """A model folder with its processor; every call takes 16 kHz clips of at most 30 s."""

    def __init__(self, folder: Path) -> None:
        # The classes are named so that nothing is guessed, and nothing is looked up online.
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True)
        self.model.train(False)
        self.vocabulary = WhisperTokenizer.from_pretrained(folder, local_files_only=True)
        self.extract = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self.begin = tokenizer.timestamp_begin(self.vocabulary)

    def features(self, clips: list[Clip]) -> torch.Tensor:
        samples = [clip.samples for clip in clips]
        made = self.extract(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        features: torch.Tensor = made.input_features
        return features

    def _generate(self, clips: list[Clip], condition: Condition, **options: Any) -> Any:
        return self.model.generate(
            self.features(clips),
            language=condition.language,
            task=condition.task,
            num_beams=1,
            do_sample=False,
            max_new_tokens=_NEW_TOKENS,
            **options,
        )

    def text(self, ids: torch.Tensor) -> str:
        return str(self.vocabulary.decode(ids, skip_special_tokens=True)).strip()

    def texts(self, condition: Condition, **options: Any) -> list[str]:
        clips, prompts = condition.clips, condition.prompts
        if prompts:
            # One prompt serves a whole batch, so each clip is a batch.
            given = [self.vocabulary.get_prompt_ids(prompt, "pt") for prompt in prompts]
            rows = [
                self._generate([clip], condition, prompt_ids=ids, **options)[0]
                for clip, ids in zip(clips, given, strict=True)
            ]
        else:
            rows = [
                row
                for start in range(0, len(clips), _BATCH)
                for row in self._generate(clips[start : start + _BATCH], condition, **options)
            ]
        return [self.text(row) for row in rows]

    def timed(self, condition: Condition) -> Iterator[tuple[str, Times, list[float]]]:
        """Text, segment times and word starts of each clip."""
        for clip in condition.clips:
            # Without the mask the last word is sought in the silence after the clip as well.
            heard_frames = -(-len(clip.samples) // self.extract.hop_length)
            mask = (torch.arange(self.extract.nb_max_frames) < heard_frames).long()[None]
            made = self._generate(
                [clip], condition, attention_mask=mask, return_timestamps=True, return_token_timestamps=True
            )
            ids, heard = made["sequences"][0], made["token_timestamps"][0]
            decoded = self.vocabulary.decode(ids, skip_special_tokens=True, output_offsets=True)
            segments = [offset["timestamp"] for offset in decoded["offsets"]]
            first_special = int(self.vocabulary.eos_token_id)
            # A word begins where the token before it looks, as in the library's own list of words.
            begins = [0.0, *heard.tolist()[:-1]]
            words = [time for token, time in zip(ids, begins, strict=True) if token < first_special]
            yield self.text(ids), segments, words

    def first_tokens(self, clips: list[Clip]) -> list[str]:
        """What the model says after ``<|startoftranscript|>``: a language or no speech."""
        chosen = []
        start = self.model.generation_config.decoder_start_token_id
        for begin in range(0, len(clips), _BATCH):
            features = self.features(clips[begin : begin + _BATCH])
            with torch.inference_mode():
                ids = torch.full((len(features), 1), start)
                logits = self.model(features, decoder_input_ids=ids).logits[:, -1]
            chosen += self.vocabulary.convert_ids_to_tokens(logits.argmax(-1).tolist())
        return chosen


def score(recognizer: Recognizer, condition: Condition) -> Score:
    references, hypotheses = condition.references, recognizer.texts(condition)
    pairs = list(zip(references, hypotheses, strict=True))
    words = sum(len(reference.split()) for reference in references)
    exact = sum(reference == hypothesis for reference, hypothesis in pairs) / len(pairs)
    first = recognizer.first_tokens(condition.clips)
    detected = sum(token == f"<|{condition.language}|>" for token in first) / len(first)
    rate = float(jiwer.wer(references, hypotheses))
    return Score(condition.name, len(pairs), words, rate, exact, detected)


def _share(errors: list[float]) -> float:
    return sum(error <= 0.2 for error in errors) / max(1, len(errors))


def _mean(errors: list[float]) -> float:
    return sum(errors) / max(1, len(errors))


def score_times(recognizer: Recognizer, condition: Condition) -> TimeScore:
    errors: list[float] = []
    word_errors: list[float] = []
    right, found_texts = 0, []
    for clip, (text, times, starts) in zip(condition.clips, recognizer.timed(condition), strict=True):
        found_texts.append(text)
        truth = [(segment[0].start, segment[-1].end) for segment in clip.segments]
        # With another number of segments there is no fair way to pair them.
        if len(truth) == len(times):
            right += 1
            for true, found in zip(truth, times, strict=True):
                errors += [abs(a - b) for a, b in zip(true, found, strict=True) if b is not None]
        spoken = [word.start for segment in clip.segments for word in segment]
        if text == clip.text and len(starts) == len(spoken):
            word_errors += [abs(a - b) for a, b in zip(spoken, starts, strict=True)]
    clips = len(condition.clips)
    return TimeScore(
        condition.name,
        clips,
        float(jiwer.wer(condition.references, found_texts)),
        right / clips,
        _mean(errors),
        _share(errors),
        _mean(word_errors),
        _share(word_errors),
    )


def _hear_nothing(recognizer: Recognizer, condition: Condition, figures: Figures) -> None:
    count = len(condition.clips)
    figures.silences = count
    figures.empty = sum(not text for text in recognizer.texts(condition)) / count
    timed = recognizer.texts(condition, return_timestamps=True)
    figures.empty_timed = sum(not text for text in timed) / count
    first = recognizer.first_tokens(condition.clips)
    figures.no_speech = sum(token == tokenizer.NO_SPEECH for token in first) / count


def evaluate(recognizer: Recognizer, share: float, only: str = "") -> Figures:
    figures = Figures()
    for condition in conditions(share):
        if only not in condition.name:
            continue
        if condition.name == "no speech":
            _hear_nothing(recognizer, condition, figures)
            continue
        figures.scores.append(score(recognizer, condition))
        print(figures.scores[-1], flush=True)
        if condition.timed:
            figures.times.append(score_times(recognizer, condition))
            print(figures.times[-1], flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate the demo speech model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="scales the number of clips")
    parser.add_argument("--only", default="", help="conditions whose name has this in it")
    parser.add_argument("--run", type=Path, help="training run, for the card; no card without it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # generate warns at every call about arguments that are meant.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    recognizer = Recognizer(arguments.folder)
    figures = evaluate(recognizer, arguments.share, arguments.only)
    print(figures)
    if arguments.run:
        card.write(arguments.folder, figures, recognizer.model, arguments.run)


if __name__ == "__main__":
    main()
