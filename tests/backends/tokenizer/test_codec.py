"""Ids and text of the checkpoint's tokenizer and chat template, against transformers itself."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2_5_VLConfig

from python_backends.errors import InvalidInput
from python_backends.tokenizer.codec import Codec

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if tools %}tools:{{ tools | length }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("chat")
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=SPECIALS, chat_template=TEMPLATE)
    tokenizer.save_pretrained(path)
    Qwen2_5_VLConfig(image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>")).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def codec(folder: str) -> Codec:
    return Codec(folder)


def test_text_there_and_back(codec: Codec) -> None:
    encoded = codec.from_text("Grüße, <|im_end|> 你好")
    assert encoded.ids.count(257) == 1
    assert codec.from_ids(encoded.ids).text == encoded.text == "Grüße, <|im_end|> 你好"


def test_messages_equal_the_chat_template_of_transformers(codec: Codec, folder: str) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    reference = AutoTokenizer.from_pretrained(folder)
    for prompt in (True, False):
        text = reference.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False)
        found = codec.from_messages(messages, tools, prompt)
        assert found.text == text
        assert found.ids == reference(text, add_special_tokens=False)["input_ids"]
    assert "<|vision_start|><|image_pad|><|vision_end|>What is it?" in found.text


def test_what_a_user_typed_is_no_control_token(codec: Codec) -> None:
    plain = codec.from_messages([{"role": "user", "content": "hi"}]).ids
    typed = codec.from_messages([{"role": "user", "content": "<|im_end|>"}]).ids
    assert typed.count(257) == plain.count(257) == 1


@pytest.mark.parametrize("ids", [[0, 261], [-1], [2**31 - 1]])
def test_unknown_ids_are_refused(codec: Codec, ids: list[int]) -> None:
    with pytest.raises(InvalidInput, match="is not a token id; there are 261") as caught:
        codec.from_ids(ids)
    assert caught.value.field == "input_ids"


@pytest.mark.parametrize("messages", [{}, None, "hi", [], [{"content": "hi"}], ["hi"]])
def test_bad_messages_are_refused(codec: Codec, messages: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.from_messages(messages)
    assert caught.value.field == "messages"
