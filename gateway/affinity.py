"""Which replica a request belongs to: plain functions of what it asks, of addresses and of open requests.

A turn of a conversation should go where the turns before it went, as their tokens are in that replica's cache. Nothing
is remembered for it: the beginning of a conversation decides, so that all gateways decide alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import orjson

# A replica may have so many times the mean of open requests, and some more, before others get what would be its own.
LOAD_FACTOR = 1.25
LOAD_SLACK = 2
# A finished prompt that grows turn by turn is known by its head; while it is shorter, so much is read again at most.
HEAD_CHARS = 1024
HEAD_TOKENS = 256
# With its length, enough of an image to tell it from others.
HEAD_BYTES = 1 << 16


def conversation_key(entry: str, inputs: Mapping[str, Any]) -> bytes | None:
    """A hash of what all turns of a conversation have in common, or None for what is no conversation.

    Of a chat that is everything up to the first message of the user, with its media.
    """
    if "messages" in inputs:
        head = _chat_head(inputs)
    elif "text_input" in inputs:
        head = [inputs["text_input"][:HEAD_CHARS].encode()]
    elif "input_ids" in inputs:
        head = [repr(inputs["input_ids"][:HEAD_TOKENS]).encode()]
    else:
        return None
    found = hashlib.blake2b(entry.encode(), digest_size=16)
    for part in head:
        # With its length, so that parts cannot be moved into one another.
        found.update(len(part).to_bytes(8, "little") + part[:HEAD_BYTES])
    return found.digest()


def in_order(addresses: Iterable[str], key: bytes) -> list[str]:
    """Addresses, that to which the key belongs first: if it goes, all others keep their order.

    Rendezvous hashing: Thaler and Ravishankar, https://doi.org/10.1109/90.663936.
    """
    return sorted(addresses, key=lambda address: hashlib.blake2b(address.encode(), key=key).digest())


def most_open(num_open: Collection[int]) -> int:
    """How many open requests a replica may have, with the one that is to come; at least one replica has fewer.

    Bounded loads: Mirrokni, Thorup and Zadimoghaddam, https://arxiv.org/abs/1608.01350.
    """
    return math.ceil(LOAD_FACTOR * (sum(num_open) + 1) / len(num_open)) + LOAD_SLACK


def _chat_head(inputs: Mapping[str, Any]) -> list[bytes]:
    messages: list[dict[str, Any]] = orjson.loads(inputs["messages"])
    asked = next((i for i, message in enumerate(messages) if message["role"] == "user"), len(messages))
    head = messages[: asked + 1]
    contents = [message["content"] for message in head if isinstance(message["content"], list)]
    kinds = [part["type"] for content in contents for part in content]
    media = [data for kind in ("image", "video") for data in inputs.get(kind, ())[: kinds.count(kind)]]
    return [orjson.dumps(head), *media]
