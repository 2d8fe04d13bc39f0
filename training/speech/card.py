"""The model card: Hugging Face front matter, what it is, figures as measured, limits."""

from pathlib import Path

from transformers import WhisperForConditionalGeneration

from training.speech import checkpoint, curve, texts
from training.speech.figures import Figures, Score, TimeScore

_HEAD = """---
license: apache-2.0
language: [en, de]
library_name: transformers
pipeline_tag: automatic-speech-recognition
tags: [whisper, synthetic-speech, demo]
---

# demo-whisper

A very small Whisper ({megabytes:.1f} MB, {parameters:,} parameters) that transcribes sentences over
{english} English and {german} German words, spoken by the espeak-ng synthesiser, and translates
small German sentences to English. It exists so that a speech backend can be run, tested and shown
without a download. It was trained from random weights on synthetic speech only and knows nothing
about human voices. The words are in `vocabulary.txt`, as `language<TAB>word`.

## Use

```python
import soundfile
from transformers import AutoProcessor, WhisperForConditionalGeneration

model = WhisperForConditionalGeneration.from_pretrained("demo_models/demo-whisper")
processor = AutoProcessor.from_pretrained("demo_models/demo-whisper")
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono at 16 kHz
features = processor(samples, sampling_rate=rate, return_tensors="pt").input_features
ids = model.generate(features, language="en", task="transcribe")
print(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())  # the lamp is red
```

Text is lower-case words without punctuation, numbers as words. As in every Whisper the first word
begins with a space: `batch_decode` gives `" the lamp is red"`. Silence gives an empty text.

## Model

`WhisperForConditionalGeneration` with 80 mels, 30 s windows (1,500 positions), d_model {d_model},
{heads} heads, {encoder} encoder and {decoder} decoder layers, feed-forward {feed_forward},
{vocabulary:,} tokens. The token layout is the multilingual one (99 languages, `<|transcribe|>`,
`<|translate|>`, `<|startofprev|>`, `<|nospeech|>`, `<|notimestamps|>`, 1,501 timestamps), but only
`<|en|>` and `<|de|>` are trained. Each word of the vocabulary is one token, and byte pieces encode
any other text. The end token may come first (`begin_suppress_tokens` holds only the lone space), so
that silence can be an empty text. `alignment_heads` are the heads of the last decoder layer,
which training led to the word to come: openai/whisper, and transformers with
`return_timestamps="word"`, begin a word where the token before it looks.
"""

_DATA = """
## Training

{samples:,} windows in {minutes:.0f} minutes of training on one shared CPU core, from random
weights; the product is a moving average of them. The windows are drawn from 90,000 clips: espeak-ng
1.51, American, British and five regional accents and German, 47 voice variants, 110-210 words per
minute, pitch 20-80, gain down to -24 dB, white, pink or brown noise or hum at 8-45 dB on half, 8 kHz
bandwidth on 15 %, a little reverberation on 10 %. Half of the English texts are sentences of a
grammar, the others words at random, numbers and digits. Windows hold one to six clips anywhere in
30 s, or one long recording with pauses; 4 % hold silence, noise, tones, chords or clicks. 10 % have a
text that came before. In the second run each window was also heard in another way every time: all
frequencies stretched by up to 12 % on 30 %, another tilt on 30 %, noise at 6-30 dB on 25 %, 8 kHz
bandwidth on 10 %; until minute 74 these were up to 15 % on half, 40 %, 30 % and 12 %.
Losses: cross-entropy, phone classification of encoder frames, and guided cross-attention, the last
two from the synthesiser's own timing.

![Losses](curve.png)

These weights come from two runs, the second from `stable.pt` of the first, both stopped and resumed,
with looks at small parts of the test sets: the first 30,000 windows had up to six clips and long
recordings from early on and were computed in float32, and the shares of the shapes of windows were
settled on the way. The commands below therefore give a similar model, not the same bytes; the
minutes are those of a clock, and the core was shared.

```
python -m training.speech.dataset DATA --shards 18 --clips 3000
python -m training.speech.dataset DATA --first 40 --shards 8 --clips 3000 --mix en=0.68,de=0.16,long=0.1,silence=0.06
python -m training.speech.train DATA RUN --minutes 102
python -m training.speech.dataset DATA --first 60 --shards 4 --clips 3000 --mix en=0.35,de=0.6,long=0.04,silence=0.01
python -m training.speech.train DATA RUN2 --init RUN/stable.pt --minutes 113
python -m training.speech.export RUN2/checkpoint.pt demo_models/demo-whisper
python -m training.speech.evaluate demo_models/demo-whisper --run RUN2
```
"""

_FIGURES = """
## Figures

Greedy decoding in full 30 s windows, the language given. WER by jiwer. The English sentences have
patterns that training never had, made of words of the vocabulary. Held-out voices have a variant or
an accent that no training clip had. Detected: the right language is the most likely first token.
"espeak-ng program" is the command line with voices en, en-us, en-gb or de at 120-190 words per
minute.

| condition | clips | words | WER | exactly right | language detected |
|---|---|---|---|---|---|
{rows}

Of {silences} clips without speech (silence, noise, tones, chords, clicks) {empty:.0%} give an empty
text, {empty_timed:.0%} with timestamps; {no_speech:.0%} have `<|nospeech|>` as the most likely first
token.

With timestamps (`return_timestamps=True`); errors of starts and ends of segments in clips with the
right number of them, and of starts of words (from cross-attention) in clips that are exactly right:

| condition | clips | WER | right number of segments | mean error | within 0.2 s | words: mean error | within 0.2 s |
|---|---|---|---|---|---|---|---|
{times}
"""

_LIMITS = """
## Limits

- Only the words of `vocabulary.txt`. Anything else, and every human voice, gives wrong words, not
  silence.
- One family of synthetic voices. Held-out variants share the synthesiser, so they measure unseen
  voice settings rather than unseen speakers.
- German and the translation know the sentences of `training/speech/german.py` and little else.
- Several sentences in one window are weaker than one: see the figures. Recordings longer than a
  window are cut into windows.
- Other Whisper runtimes that tell multilingual models by 51,865 or more tokens will take this one
  for an English-only model and prompt it wrongly.
"""


def _row(s: Score) -> str:
    return f"| {s.condition} | {s.clips} | {s.words} | {s.word_error_rate:.1%} | {s.exact:.0%} | {s.detected:.0%} |"


def _times(s: TimeScore) -> str:
    return (
        f"| {s.condition} | {s.clips} | {s.word_error_rate:.1%} | {s.right_number:.0%} "
        f"| {s.mean_error:.2f} s | {s.within_200_ms:.0%} "
        f"| {s.word_mean_error:.2f} s | {s.words_within_200_ms:.0%} |"
    )


def _head(folder: Path, model: WhisperForConditionalGeneration) -> str:
    shape = model.config
    return _HEAD.format(
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        parameters=model.num_parameters(),
        vocabulary=shape.vocab_size,
        d_model=shape.d_model,
        heads=shape.encoder_attention_heads,
        encoder=shape.encoder_layers,
        decoder=shape.decoder_layers,
        feed_forward=shape.encoder_ffn_dim,
        english=len(texts.english_words()),
        german=len(texts.german_words()),
    )


def write(folder: Path, figures: Figures, model: WhisperForConditionalGeneration, run: Path) -> None:
    """Write ``README.md`` and ``curve.png`` into a model folder."""
    state = checkpoint.load(run / "checkpoint.pt")
    facts = checkpoint.Progress(**state["progress"])
    minutes = facts.all_seconds / 60
    data = _DATA.format(samples=facts.all_samples, minutes=minutes)
    measured = _FIGURES.format(
        rows="\n".join(map(_row, figures.scores)),
        times="\n".join(map(_times, figures.times)),
        silences=figures.silences,
        empty=figures.empty,
        empty_timed=figures.empty_timed,
        no_speech=figures.no_speech,
    )
    curve.draw(run / "log.jsonl", folder / "curve.png")
    (folder / "README.md").write_text(_head(folder, model) + data + measured + _LIMITS)
