"""Clips on disk as log-mels, and the windows that training draws from them.

A data folder holds ``phones.json`` (the phone inventory) and ``shard-NNNNN`` folders with
``mels.npy`` (uint8 ``[frames, 80]``), ``phones.npy`` (uint8, one per 20 ms position) and
``clips.json``. Shards may be added while training runs. ``python -m training.speech.dataset``
builds them.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.speech import espeak, features, sounds, texts, utterances

NO_PHONE = 0
# Outside any inventory that fits a byte; such positions carry no phone loss.
UNKNOWN_PHONE = 255

# Short clips that hold two or three sentences read in one go.
_PARAGRAPHS = 0.12

KINDS = ("en", "de", "long", "silence")


@dataclass(frozen=True)
class StoredClip:
    """Views into a shard, and the words per segment with times in seconds."""

    language: str
    mel: NDArray[np.uint8]
    phones: NDArray[np.uint8]
    segments: list[list[espeak.Span]]
    translations: list[list[tuple[str, int]] | None]

    @property
    def positions(self) -> int:
        return len(self.phones)

    def cut_at(self, positions: int) -> "StoredClip":
        """The beginning of the clip; segments that begin later are gone, others keep all words."""
        seconds = positions * features.POSITION_SECONDS
        segments = [segment for segment in self.segments if segment[0].start < seconds]
        mel, phones = self.mel[: 2 * positions], self.phones[:positions]
        return replace(self, mel=mel, phones=phones, segments=segments)

    def cut_before(self, share: float) -> "StoredClip":
        """The end of the clip's first segment, from the word at this share of it."""
        words = self.segments[0][int(share * len(self.segments[0])) :]
        first = int(words[0].start / features.POSITION_SECONDS)
        by = first * features.POSITION_SECONDS
        segments = [
            [espeak.Span(word.name, word.start - by, word.end - by) for word in segment]
            for segment in (words, *self.segments[1:])
        ]
        mel, phones = self.mel[2 * first :], self.phones[first:]
        translations = [None, *self.translations[1:]]
        return replace(self, mel=mel, phones=phones, segments=segments, translations=translations)


def phone_inventory(synthesizer: espeak.Synthesizer) -> list[str]:
    """Every phone of the vocabulary in every accent; index 0 stands for no sound."""
    names: set[str] = set()
    english, german = texts.english_words(), texts.german_words()
    voices = dict.fromkeys(utterances.MAIN_ACCENTS + utterances.OTHER_ACCENTS, english)
    for name, words in {**voices, utterances.GERMAN: german}.items():
        for start in range(0, len(words), 10):
            spoken = synthesizer.speak(" ".join(words[start : start + 10]), espeak.Voice(name))
            names.update(phone.name for phone in spoken.phones)
    return ["", *sorted(names)]


def frame_phones(clip: utterances.Clip, positions: int, inventory: list[str]) -> NDArray[np.uint8]:
    """The phone that sounds in the middle of each 20 ms position."""
    index = {name: number for number, name in enumerate(inventory)}
    frames = np.full(positions, NO_PHONE, np.uint8)
    for phone in clip.phones:
        first, last = (round(t / features.POSITION_SECONDS) for t in (phone.start, phone.end))
        frames[first:last] = index.get(phone.name, UNKNOWN_PHONE)
    return frames


def _compose(
    kind: str, language: str, synthesizer: espeak.Synthesizer, rng: random.Random, noises: np.random.Generator
) -> utterances.Clip:
    if kind == "silence":
        return utterances.Clip(sounds.without_speech(rng, noises))
    voice, compose = utterances.train_voice(language, rng), partial(texts.compose, language)
    if kind == "long":
        clip = utterances.long_clip(synthesizer, compose, voice, rng)
    else:
        count = rng.choice((2, 2, 3)) if rng.random() < _PARAGRAPHS else 1
        said = [compose(rng) for _ in range(count)]
        clip = utterances.short_clip(synthesizer, said, voice, rng)
    return utterances.augmented(clip, rng, noises)


def _word(span: espeak.Span) -> tuple[str, float, float]:
    return span.name, round(span.start, 4), round(span.end, 4)


def write_shard(folder: Path, inventory: list[str], kinds: list[str], seed: int) -> None:
    """One shard with a clip for each entry of ``kinds``; it appears complete or not at all."""
    synthesizer, rng = espeak.Synthesizer(), random.Random(seed)
    noises = np.random.default_rng(seed)
    mels, phones, records = [], [], []
    for kind in kinds:
        language = kind if kind in texts.LANGUAGES else rng.choice(("en", "en", "en", "de"))
        clip = _compose(kind, language, synthesizer, rng, noises)
        mel = features.log_mel(clip.samples)
        mels.append(mel)
        phones.append(frame_phones(clip, len(mel) // 2, inventory))
        segments = [[_word(span) for span in segment] for segment in clip.segments]
        records.append(
            {
                "kind": kind,
                "language": language,
                "frames": len(mel),
                "segments": segments,
                "translations": clip.translations,
            }
        )
    # A trainer lists shards while this runs: the rename is what makes one visible.
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    np.save(partial / "mels.npy", np.concatenate(mels))
    np.save(partial / "phones.npy", np.concatenate(phones))
    (partial / "clips.json").write_text(json.dumps(records))
    partial.rename(folder)


def read_shard(folder: Path) -> Iterator[tuple[str, StoredClip]]:
    """The kind of each clip, and the clip."""
    mels = np.load(folder / "mels.npy", mmap_mode="r")
    phones = np.load(folder / "phones.npy")
    start = 0
    for record in json.loads((folder / "clips.json").read_text()):
        end = start + record["frames"]
        segments = [[espeak.Span(*word) for word in segment] for segment in record["segments"]]
        mel, sounding = mels[start:end], phones[start // 2 : end // 2]
        yield record["kind"], StoredClip(record["language"], mel, sounding, segments, record["translations"])
        start = end


class Clips:
    """All clips of a data folder by kind; ``refresh`` takes in shards written since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_kind: dict[str, list[StoredClip]] = {kind: [] for kind in KINDS}
        self._known: set[str] = set()
        self.inventory: list[str] = json.loads((folder / "phones.json").read_text())
        self.refresh()

    def refresh(self) -> int:
        for shard in sorted(self.folder.glob("shard-*[0-9]")):
            if shard.name not in self._known:
                self._known.add(shard.name)
                for kind, clip in read_shard(shard):
                    self.by_kind[kind].append(clip)
        return sum(map(len, self.by_kind.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Synthesise training shards.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument("--clips", type=int, default=4000, help="clips per shard")
    parser.add_argument("--mix", default="en=0.735,de=0.2,long=0.035,silence=0.03", help="share of each kind")
    return parser.parse_args()


def main() -> None:
    arguments: Any = _arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    inventory_file = arguments.folder / "phones.json"
    if not inventory_file.exists():
        inventory_file.write_text(json.dumps(phone_inventory(espeak.Synthesizer())))
    inventory = json.loads(inventory_file.read_text())
    shares = {k: float(v) for k, v in (part.split("=") for part in arguments.mix.split(","))}
    for number in range(arguments.first, arguments.first + arguments.shards):
        folder = arguments.folder / f"shard-{number:05d}"
        if not folder.exists():
            # Seeding by number makes a shard the same whichever run writes it.
            rng = random.Random(number)
            kinds = rng.choices(list(shares), list(shares.values()), k=arguments.clips)
            write_shard(folder, inventory, kinds, seed=number)
            print(folder.name, flush=True)


if __name__ == "__main__":
    main()
