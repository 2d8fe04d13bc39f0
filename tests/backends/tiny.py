"""Tokenizers and checkpoints small enough to make on the fly."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] in ('image', 'image_url') %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part %}{{- part['text'] }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if tools %}{{- tools | tojson }}{%- endif %}"
    "{%- if shout is defined %}{{- raise_exception('no ' + shout) }}{%- endif %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
_TEXTS = (
    "the quick brown fox jumps over the lazy dog, and the dog says: stop",
    "def stop(self) -> None: return None  # stop here",
    "größe und straße, 你好 世界, 🙂🚀 emoji, naïve café",
)


@cache
def byte_level_tokenizer(vocab_size: int = 400) -> Tokenizer:
    """Any bytes can be spelt in it; frequent words are one token, an emoji is several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text in _TEXTS for _ in range(5)], trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return tokenizer


def save_tokenizer(folder: Path, chat_template: str | None = CHATML, **config: Any) -> Path:
    """A checkpoint's folder as far as `Prompter` reads it: tokenizer, template and configuration."""
    fast = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer(), eos_token="<|im_end|>")
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    Qwen2Config(vocab_size=400, **config).save_pretrained(folder)
    return folder
