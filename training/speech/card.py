"""The model card: Hugging Face front matter, what it is, figures as measured, limits."""

from pathlib import Path

from transformers import WhisperForConditionalGeneration

from training.speech import checkpoint
from training.speech.figures import Figures, SegmentScore

_HEAD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: automatic-speech-recognition
tags: [whisper, synthetic-speech, demo]
---

# demo-whisper

A very small Whisper ({megabytes:.1f} MB, {parameters:,} parameters) that transcribes English digit
strings spoken by the espeak-ng synthesiser. It exists so that a speech backend can be run, tested
and shown without a download. It was trained from random weights on synthetic speech only and knows
nothing about human voices.

## Use

```python
import soundfile
from transformers import AutoProcessor, WhisperForConditionalGeneration

model = WhisperForConditionalGeneration.from_pretrained("demo_models/demo-whisper")
processor = AutoProcessor.from_pretrained("demo_models/demo-whisper")
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono at 16 kHz
features = processor(samples, sampling_rate=rate, return_tensors="pt").input_features
ids = model.generate(features, language="en", task="transcribe")
print(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())  # three one four
```

Text is lower-case words without punctuation. As in every Whisper the first word begins with a
space: `batch_decode` gives `" three one four"`. Silence gives an empty text.

## Model

`WhisperForConditionalGeneration` with 80 mels, 30 s windows (1,500 positions), d_model {d_model},
{heads} heads, {encoder} encoder and {decoder} decoder layers, feed-forward 512, {vocabulary:,}
tokens. The token layout is the multilingual one (99 languages, `<|transcribe|>`,
`<|startofprev|>`, `<|nospeech|>`, `<|notimestamps|>`, 1,501 timestamps), but only `<|en|>` and
`<|transcribe|>` are trained. The byte pieces encode any text; each word of
`training/speech/texts.py` is one token. The end token may come first (`begin_suppress_tokens`
holds only the lone space), so that silence can be an empty text. `alignment_heads` are the heads
of the last decoder layer, which training guided.
"""

_DATA = """
## Training

{samples:,} windows, drawn with repetition from 64,000 synthesised clips, in {minutes:.0f}
minutes of training steps on one shared CPU core; the weights are a moving average. Clips:
espeak-ng 1.51, American, British and four regional accents, 29 voice variants, 120-200 words per
minute, pitch 30-70, gain down to -24 dB, white, pink or brown noise at 10-45 dB on half, 8 kHz
bandwidth on 12% of them, strings of 1-10 digits with and without commas; 3% silence, noise or
tones. Windows hold one to six clips anywhere in 30 s, or one long recording with pauses. Losses:
cross-entropy, phone classification of encoder frames, and guided cross-attention, the last two
from the synthesiser's own timing.

The first run of these weights was stopped and resumed while the phases in `train.py` were settled,
with looks at small parts of the test sets below, and in its data a word before a comma was often
marked too long; the second run (`--plan more`) had data with that put right. The same commands
therefore give a similar model, not the same bytes:

```
python -m training.speech.dataset .cache/training/speech/data --shards 16
python -m training.speech.train .cache/training/speech/data .cache/training/speech/run
python -m training.speech.train .cache/training/speech/data .cache/training/speech/more \\
    --plan more --init .cache/training/speech/run/checkpoint.pt
python -m training.speech.export .cache/training/speech/more/checkpoint.pt demo_models/demo-whisper
python -m training.speech.evaluate demo_models/demo-whisper --run .cache/training/speech/more
```
"""

_FIGURES = """
## Figures

Greedy decoding of unseen strings in full 30 s windows, `language="en"`. WER by jiwer. Held-out
voices have a variant or an accent that no training clip had.

| condition | clips | words | WER | exactly right |
|---|---|---|---|---|
{rows}

- Clips without speech (silence, noise, tones): {empty:.0%} give an empty text, {no_speech:.0%} have
  `<|nospeech|>` as the most likely first token.
- Language: `<|en|>` is the most likely first token of {english:.0%} of clips with speech.
{segments}"""

_SEGMENTS = """
With timestamps (`return_timestamps=True`); errors are those of starts and ends in clips with the
right number of segments:

| condition | clips | WER | right number of segments | mean error | within 0.2 s |
|---|---|---|---|---|---|
{rows}
"""

_LIMITS = """
## Limits

- Only the words zero to nine. Anything else, and every human voice, gives wrong digits, not
  silence.
- One family of synthetic voices. Held-out variants share the synthesiser, so they measure unseen
  voice settings rather than unseen speakers.
- Translation, languages other than English, and text prompts (`<|startofprev|>`) are untrained.
- Several strings in one window are weaker than one string: see the figures. Recordings longer than
  a window are cut into windows, and strings cut in two were a small share of the training.
- Other Whisper runtimes that tell multilingual models by 51,865 or more tokens will take this one
  for an English-only model and prompt it wrongly.
"""


def training_facts(run: Path) -> checkpoint.Progress:
    """How far the run in this folder has come."""
    return checkpoint.Progress(**checkpoint.load(run / "checkpoint.pt")["progress"])


def _segment_row(s: SegmentScore) -> str:
    return (
        f"| {s.condition} | {s.clips} | {s.word_error_rate:.1%} | {s.right_number:.0%} "
        f"| {s.mean_error:.2f} s | {s.within_200_ms:.0%} |"
    )


def _segments(scores: list[SegmentScore]) -> str:
    return _SEGMENTS.format(rows="\n".join(map(_segment_row, scores))) if scores else ""


def _rows(figures: Figures) -> str:
    return "\n".join(
        f"| {s.condition} | {s.clips} | {s.words} | {s.word_error_rate:.1%} | {s.exact:.1%} |"
        for s in figures.scores
    )


def write(folder: Path, figures: Figures, facts: checkpoint.Progress,
          model: WhisperForConditionalGeneration) -> None:
    """Write ``README.md`` into a model folder."""
    shape = model.config
    text = _HEAD.format(
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        parameters=model.num_parameters(), vocabulary=shape.vocab_size, d_model=shape.d_model,
        heads=shape.encoder_attention_heads, encoder=shape.encoder_layers,
        decoder=shape.decoder_layers,
    )
    text += _DATA.format(samples=facts.total, minutes=facts.seconds / 60)
    text += _FIGURES.format(
        rows=_rows(figures), empty=figures.empty, no_speech=figures.no_speech,
        english=figures.english, segments=_segments(figures.segments),
    )
    (folder / "README.md").write_text(text + _LIMITS)
