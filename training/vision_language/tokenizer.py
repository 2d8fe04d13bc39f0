"""The tokenizer: byte-level BPE over the training text, Qwen's special tokens and chat template."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.vision_language.chat import conversation
from training.vision_language.intents import FIXED, NAMES, SYSTEM, WORDS
from training.vision_language.questions import ask
from training.vision_language.scenes import random_scene

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# Long enough that most training words are one token, short enough for a tiny embedding.
VOCABULARY = 1024
# Qwen's own splitting rule: line breaks stand alone and digits are split one by one.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- elif message.content -%}
{%- for part in message.content -%}
{%- if 'image' in part or 'image_url' in part or part.type in ('image', 'image_url') -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def special_ids() -> dict[str, int]:
    """Id of every special token; they are the first of the vocabulary."""
    return {token: index for index, token in enumerate(SPECIAL)}


def corpus(seed: int, count: int) -> Iterator[str]:
    """Text like the training text, and every fixed answer a few times."""
    rng = random.Random(seed)
    yield from ("user\n", "assistant\n", "system\n", *SYSTEM, *WORDS, *NAMES) * 5
    # Repeated, so that fixed answers win merges and stay short.
    yield from (answer for _, _, answer in FIXED * 40)
    for _ in range(count):
        scene = random_scene(rng, 224, 224, rng.randint(1, 3))
        for turn in (*conversation(rng), ask(rng, scene), ask(rng, scene)):
            yield from (turn.question, turn.answer)


def train_tokenizer(seed: int = 0, count: int = 6000) -> PreTrainedTokenizerFast:
    """Learns the merges and returns the tokenizer in its library form."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # Bytes in, bytes out: any text a user sends can be encoded.
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed, count), trainer)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The run's tokenizer; made once, since a checkpoint is worth nothing with another."""
    path = folder / "tokenizer"
    if not path.exists():
        train_tokenizer().save_pretrained(path)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(path)
    return tokenizer
