"""Evaluate a model folder through ``from_pretrained`` and ``generate`` and write its model card.

``python -m training.speech.evaluate demo_models/demo-whisper`` measures word error rate (jiwer),
the share of strings that are exactly right, segment times, language detection and silence. Greedy
decoding on full 30 s windows, as a server does it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import jiwer
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from training.speech import card, tokenizer
from training.speech.conditions import conditions
from training.speech.figures import Figures, Score, SegmentScore
from training.speech.utterances import SAMPLE_RATE, Clip

_BATCH = 10


class Recognizer:
    """A model folder with its processor; every call takes 16 kHz clips of at most 30 s."""

    def __init__(self, folder: Path) -> None:
        # The classes are named so that nothing is guessed, and nothing is looked up online.
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True)
        self.model.train(False)
        self.vocabulary = WhisperTokenizer.from_pretrained(folder, local_files_only=True)
        self.extract = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)

    def features(self, clips: list[Clip]) -> torch.Tensor:
        samples = [clip.samples for clip in clips]
        made = self.extract(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        features: torch.Tensor = made.input_features
        return features

    def ids(self, clips: list[Clip], timestamps: bool) -> Iterator[torch.Tensor]:
        for start in range(0, len(clips), _BATCH):
            yield from self.model.generate(
                self.features(clips[start : start + _BATCH]), language="en", task="transcribe",
                return_timestamps=timestamps, num_beams=1, do_sample=False, max_new_tokens=120,
            )

    def texts(self, clips: list[Clip], timestamps: bool = False) -> list[str]:
        rows = list(self.ids(clips, timestamps))
        return [self.vocabulary.decode(row, skip_special_tokens=True).strip() for row in rows]

    def segments(self, clips: list[Clip]) -> list[tuple[str, list[tuple[float, float]]]]:
        found = []
        for row in self.ids(clips, timestamps=True):
            made = self.vocabulary.decode(row, skip_special_tokens=True, output_offsets=True)
            times = [offset["timestamp"] for offset in made["offsets"]]
            found.append((made["text"].strip(), times))
        return found

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


def score(name: str, references: list[str], hypotheses: list[str]) -> Score:
    pairs = list(zip(references, hypotheses, strict=True))
    words = sum(len(reference.split()) for reference in references)
    exact = sum(reference == hypothesis for reference, hypothesis in pairs) / len(pairs)
    return Score(name, len(pairs), words, float(jiwer.wer(references, hypotheses)), exact)


def score_segments(recognizer: Recognizer, name: str, clips: list[Clip]) -> SegmentScore:
    """Start and end errors over the clips whose number of segments is right."""
    errors, right = [], 0
    found = recognizer.segments(clips)
    for clip, (_, times) in zip(clips, found, strict=True):
        truth = [(segment[0].start, segment[-1].end) for segment in clip.segments]
        # With another number of segments there is no fair way to pair them.
        if len(truth) == len(times):
            right += 1
            for (start, end), (found_start, found_end) in zip(truth, times, strict=True):
                errors += [abs(start - found_start), abs(end - found_end)]
    close = sum(error <= 0.2 for error in errors)
    rate = float(jiwer.wer([clip.text for clip in clips], [text for text, _ in found]))
    count, share = max(1, len(errors)), right / len(clips)
    return SegmentScore(name, len(clips), share, sum(errors) / count, close / count, rate)


def evaluate(recognizer: Recognizer, share: float) -> Figures:
    figures = Figures()
    for name, clips in conditions(share):
        if name == "no speech":
            texts = recognizer.texts(clips)
            figures.empty = sum(text == "" for text in texts) / len(texts)
            first = recognizer.first_tokens(clips)
            figures.no_speech = sum(t == tokenizer.NO_SPEECH for t in first) / len(first)
            continue
        result = score(name, [clip.text for clip in clips], recognizer.texts(clips))
        figures.scores.append(result)
        print(result, flush=True)
        if "augmented" in name:
            first = recognizer.first_tokens(clips)
            figures.english = sum(token == tokenizer.ENGLISH for token in first) / len(first)
        if name.startswith("held-out voices, augmented") or "several" in name:
            figures.segments.append(score_segments(recognizer, name, clips))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate the demo speech model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="scales the number of clips")
    parser.add_argument("--run", type=Path, help="training run, for the card; no card without it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recognizer = Recognizer(arguments.folder)
    figures = evaluate(recognizer, arguments.share)
    print(figures)
    if arguments.run:
        facts = card.training_facts(arguments.run)
        card.write(arguments.folder, figures, facts, recognizer.model)


if __name__ == "__main__":
    main()
