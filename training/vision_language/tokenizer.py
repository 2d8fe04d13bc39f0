"""The tokenizer: byte-level BPE over the training text, Qwen's special tokens and chat template."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.vision_language.answers import STYLES
from training.vision_language.chat import conversation
from training.vision_language.intents import CITIES, FIXED, GENRES, NAMES, PRINTED, SONGS, SYSTEM, WORDS
from training.vision_language.pairs import ask_pair
from training.vision_language.phrases import expand
from training.vision_language.questions import ask
from training.vision_language.scenes import random_scene
from training.vision_language.tools import CLOSE, OPEN, Offer, tools_text

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# Long enough that most training words are one token, short enough for a tiny embedding.
VOCABULARY = 2048
# Qwen's own splitting rule: line breaks stand alone and digits are split one by one.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Added tokens like Qwen's, but not special: they are part of the text that a client gets.
CALL_MARKS = ("<tool_call>", "</tool_call>")
# The tools part is word for word Qwen2.5's, so that servers find calls in the Hermes form.
CHAT_TEMPLATE = """\
{%- macro body(content) -%}
{%- if content is string -%}
{{- content -}}
{%- elif content -%}
{%- for part in content -%}
{%- if 'image' in part or 'image_url' in part or part.type in ('image', 'image_url') -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set first = messages[0].role == 'system' -%}
{%- if tools or first -%}
{{- '<|im_start|>system\\n' -}}
{{- body(messages[0].content) if first else '' -}}
{%- if tools -%}
{{- ('\\n\\n' if first else '') + OPEN -}}
{%- for tool in tools -%}
{{- '\\n' + tool | tojson -}}
{%- endfor -%}
{{- CLOSE -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' else '' -}}
{{- '\\n<tool_response>\\n' + body(message.content) + '\\n</tool_response>' -}}
{{- '<|im_end|>\\n' if loop.last or messages[loop.index0 + 1].role != 'tool' else '' -}}
{%- elif not (loop.first and first) -%}
{{- '<|im_start|>' + message.role + '\\n' + body(message.content) -}}
{%- for call in message.tool_calls or [] -%}
{%- set call = call.function or call -%}
{{- '\\n' if message.content or not loop.first else '' -}}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}
{{- call.arguments if call.arguments is string else call.arguments | tojson -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
""".replace("OPEN", repr(OPEN)).replace("CLOSE", repr(CLOSE))


def special_ids() -> dict[str, int]:
    """Id of every special token; they are the first of the vocabulary."""
    return {token: index for index, token in enumerate(SPECIAL)}


def corpus(seed: int, count: int) -> Iterator[str]:
    """Text like the training text, and every fixed answer a few times."""
    rng = random.Random(seed)
    messages = [expand(rng, text) for texts in SYSTEM.values() for text in texts]
    yield from ("user\n", "assistant\n", "system\n") * count
    yield from (*messages, *WORDS, *NAMES, *CITIES) * 5
    yield from (f" {word}" for word in (*WORDS, *NAMES, *PRINTED, *CITIES, *SONGS, *GENRES) * 8)
    # Repeated, so that fixed answers win merges and stay short.
    yield from (answer for _, _, answer in FIXED * 40)
    for _ in range(count):
        offer = Offer(rng, 1)
        scene = random_scene(rng, 224, 224, rng.randint(1, 3))
        yield tools_text(offer.schemas)
        for turn in (
            *conversation(rng),
            *offer.use(rng),
            ask(rng, scene),
            ask(rng, scene),
            ask_pair(rng, scene, scene),
        ):
            yield from (turn.question, turn.reply(rng.choice(STYLES)))


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
        vocab_size=VOCABULARY - len(CALL_MARKS),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed, count), trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in CALL_MARKS])
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
