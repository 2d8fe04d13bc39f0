"""Which OpenAI models there are, from Triton's repository index and model configurations. Knows no checkpoint.

An entry with the parameter `task` is an OpenAI model. The entries it stands on are the steps of its ensemble, and for a
chat model that takes images also its vision entry, when that is served by the same Triton. Of several replicas of
Triton it is enough that one serves an entry; what differs between their configurations is told as one of them has it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.errors import GatewayError, InvalidRequest, ModelNotFound, Unavailable
from gateway.limits import CALLER
from gateway.reasoning import FORMATS
from gateway.replicas import Replicas
from gateway.tools import PARSERS
from gateway.triton import EntryConfig, EntryState

log = logging.getLogger("trimodal.gateway")

# A reload that falls between two looks shows no change of state; its new parameters are seen after this time.
CONFIG_AGE_S = 10.0
# Unknown ids make the gateway ask Triton, so a flood of them must not become a flood there.
MISS_AGE_S = 0.05
# The entry with the tokenizer of the model whose checkpoint it names.
TOKENIZER = "tokenizer"
DEFAULT_MODALITIES = {"chat": "text", "transcription": "audio", "embedding": "text"}


@dataclass(frozen=True)
class ServedModel:
    """One OpenAI model: `ids[0]` is the canonical id, the others are aliases; `entry` is its name in Triton."""

    ids: tuple[str, ...]
    entry: str
    task: str
    input_modalities: tuple[str, ...]
    max_model_len: int | None
    # How its text is read, see gateway/tools and gateway/reasoning.py; empty where it is plain text.
    tool_call_parser: str
    reasoning_parser: str
    # The entry that has its tokenizer, if there is one.
    tokenizer: str | None
    # `steps` carry a request; `needs` must be ready as well for the model to do all it says.
    steps: frozenset[str]
    needs: frozenset[str]
    # Whether the entry has the input `compact`, see docs/contracts.md.
    may_be_compact: bool = False
    # Which of the entry's adapters it is; empty for the checkpoint itself.
    lora_name: str = ""

    @property
    def capabilities(self) -> list[str]:
        """What clients may ask for, in words of this project; there is no common list of such words."""
        if self.task != "chat":
            return [self.task]
        has = {
            "vision": "image" in self.input_modalities,
            "tools": self.tool_call_parser,
            "reasoning": self.reasoning_parser,
            "tokenize": self.tokenizer,
        }
        return ["chat", "completions", *(name for name, value in has.items() if value)]

    def card(self, model_id: str, created: int, ready: bool) -> dict[str, Any]:
        return {
            "id": model_id,
            "object": "model",
            "created": created,
            "owned_by": "trimodal",
            "task": self.task,
            "ready": ready,
            "capabilities": self.capabilities,
            "input_modalities": list(self.input_modalities),
            "max_model_len": self.max_model_len,
            "root": self.entry,
            "aliases": [other for other in self.ids if other != model_id],
        }


class Discovery:
    """Keeps the last known models and states; a model whose entry is down for a moment stays known."""

    def __init__(self, triton: Replicas, interval_s: float) -> None:
        self.created = int(time.time())
        self.live = False
        self.entries: dict[str, EntryState] = {}
        self.models: dict[str, ServedModel] = {}
        self._triton = triton
        self._interval_s = interval_s
        self._configs: dict[str, EntryConfig] = {}
        self._configs_at = 0.0
        self._refreshed_at = 0.0
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Refreshes for ever; being without Triton is an ordinary state."""
        while True:
            try:
                await self.refresh()
            except Exception:  # without this loop the gateway would keep for ever what it knows now
                log.exception("discovery failed; it will be tried again")
            await asyncio.sleep(self._interval_s)

    async def refresh(self, not_since: float = float("inf")) -> None:
        """Looks again, unless somebody else has done so since the monotonic time `not_since`."""
        async with self._lock:
            if self._refreshed_at > not_since:
                return
            try:
                await self._read()
                self.live = True
            except GatewayError:
                self.live = False
            self._refreshed_at = time.monotonic()

    async def reread(self) -> None:
        """Looks again, at every configuration too: an entry was loaded with another one."""
        self._configs_at = float("-inf")
        await self.refresh()

    def checkpoint_of(self, entry: str) -> str | None:
        """The parameter `model` of an entry, also while it is unloaded."""
        return self._configs[entry].parameters.get("model") if entry in self._configs else None

    def sharing_checkpoint(self, entry: str) -> list[str]:
        """The entries with the checkpoint of `entry`, and `entry` itself at the end."""
        checkpoint = self.checkpoint_of(entry)
        others = [name for name in sorted(self._configs) if self.checkpoint_of(name) == checkpoint and name != entry]
        return [*(others if checkpoint else ()), entry]

    async def find(self, model_id: str | None, task: str) -> ServedModel:
        """Returns the model of that id; without one, the only model of that task.

        Raises ModelNotFound, Unavailable when nothing is known yet, and InvalidRequest for a model of another task.
        """
        model = self._lookup(model_id, task)
        if model is None:
            # It may be a model loaded since the last look.
            await self.refresh(not_since=time.monotonic() - MISS_AGE_S)
            model = self._lookup(model_id, task)
        # To a caller without the right to it, a model is not there: names may tell as well.
        if model is None or not CALLER.get().may_use(model.ids):
            raise self._miss(model_id, task)
        if model.task != task:
            raise InvalidRequest(f"The model {model.ids[0]!r} does {model.task}, not {task}.", "model", "unsupported")
        return model

    def unready(self, model: ServedModel) -> list[str]:
        """Names the entries that keep a model from being ready.

        What was never loaded here, beyond the model's own steps, is served elsewhere: by an encoder that stands alone.
        """
        states = {name: self.state_of(name) for name in model.needs}
        return sorted(
            name for name, entry in states.items() if not entry.ready and (entry.state or name in model.steps)
        )

    def card(self, model_id: str) -> dict[str, Any]:
        """The model object of an id that is known; those that the caller may use are `visible_ids`."""
        model = self.models[model_id]
        return model.card(model_id, self.created, ready=self.live and not self.unready(model))

    def visible_ids(self) -> list[str]:
        caller = CALLER.get()
        return [model_id for model_id, model in self.models.items() if caller.may_use(model.ids)]

    def state_of(self, name: str) -> EntryState:
        return self.entries.get(name, EntryState("MISSING", "")) if self.live else EntryState("UNKNOWN", "")

    @property
    def is_starting(self) -> bool:
        """Whether models may still come, and none is there yet."""
        unread = [name for name, entry in self.entries.items() if entry.ready and name not in self._configs]
        return not self.models and (not self.live or bool(unread or self.loading))

    @property
    def loading(self) -> set[str]:
        """Entries on their way; one that loads for the first time is not known as a model yet."""
        return {name for name, entry in self.entries.items() if entry.state == "LOADING"}

    @property
    def unique_models(self) -> list[ServedModel]:
        """Each checkpoint once; its adapters are ready when it is."""
        return [model for model in dict.fromkeys(self.models.values()) if not model.lora_name]

    def _lookup(self, model_id: str | None, task: str) -> ServedModel | None:
        if model_id:
            return self.models.get(model_id)
        candidates = [model for model in self.unique_models if model.task == task]
        return candidates[0] if len(candidates) == 1 else None

    def _miss(self, model_id: str | None, task: str) -> GatewayError:
        if not self.models:
            return Unavailable("No model is served yet.")
        if not model_id:
            return InvalidRequest(f"Name a model: there is not exactly one for {task}.", "model", "missing_required")
        return ModelNotFound(f"The model {model_id[:200]!r} does not exist, or this key may not use it.", "model")

    async def _read(self) -> None:
        self.entries = await self._triton.index()
        now = time.monotonic()
        if now - self._configs_at > CONFIG_AGE_S:
            stale = set(self.entries)
            self._configs_at = now
        else:
            stale = {name for name, entry in self.entries.items() if name not in self._configs or not entry.ready}
        # An entry that is down has no configuration to read, and keeps its last one as long as it is listed.
        self._configs = {name: config for name, config in self._configs.items() if name in self.entries}
        changed = False
        for name in sorted(stale):
            if self.entries[name].ready:
                changed |= await self._read_config(name)
        if changed or {model.entry for model in self.models.values()} - set(self._configs):
            self.models = _models_of(self._configs)
            log.info("models: %s", ", ".join(self.models) or "none")

    async def _read_config(self, name: str) -> bool:
        config = await self._triton.config(name)
        changed = self._configs.get(name) != config
        self._configs[name] = config
        return changed


def _models_of(configs: dict[str, EntryConfig]) -> dict[str, ServedModel]:
    models: dict[str, ServedModel] = {}
    bases = [_model_of(name, configs) for name, config in sorted(configs.items()) if config.parameters.get("task")]
    # Last, so that an adapter's name takes no other model's.
    adapters = [adapter for base in bases for adapter in _adapters_of(base, configs[base.entry])]
    for model in (*bases, *adapters):
        for model_id in model.ids:
            if models.setdefault(model_id, model) is not model:
                taker = models[model_id].entry
                log.warning("the id %r of entry %s is taken by entry %s", model_id, model.entry, taker)
    return models


def _adapters_of(base: ServedModel, config: EntryConfig) -> list[ServedModel]:
    """A model for each LoRA adapter of the entry, under the adapter's own name."""
    text = config.parameters.get("lora_adapters") or "{}"
    try:
        names = list(dict(json.loads(text)))
    except (TypeError, ValueError):  # not one of our entries, which would not have loaded
        log.warning("entry %s: lora_adapters is %r, which is no JSON object; it is ignored", base.entry, text)
        return []
    return [replace(base, ids=(name,), lora_name=name) for name in names]


def _model_of(name: str, configs: dict[str, EntryConfig]) -> ServedModel:
    parameters = configs[name].parameters
    task = parameters["task"]
    length = parameters.get("max_model_len", "")
    steps = _with_steps(name, configs)
    needs = set(steps)
    modalities = _split(parameters.get("input_modalities", "")) or (DEFAULT_MODALITIES.get(task, "text"),)
    if task == "chat" and "image" in modalities and not parameters.get("vision_endpoint"):
        needs |= _with_steps(parameters.get("vision_model") or "vision", configs)
    tokenizer = configs.get(TOKENIZER)
    same = tokenizer is not None and tokenizer.parameters.get("model") == parameters.get("model")
    return ServedModel(
        ids=_split(parameters.get("served_model_name", "")) or (name,),
        entry=name,
        task=task,
        input_modalities=modalities,
        max_model_len=int(length) if length.isdecimal() else None,
        tool_call_parser=_known(parameters, "tool_call_parser", PARSERS, name),
        reasoning_parser=_known(parameters, "reasoning_parser", FORMATS, name),
        tokenizer=TOKENIZER if same and task == "chat" else None,
        steps=frozenset(steps),
        needs=frozenset(needs),
        may_be_compact="compact" in configs[name].inputs,
    )


def _known(parameters: Mapping[str, str], key: str, known: Iterable[str], name: str) -> str:
    value = parameters.get(key, "")
    if value and value not in known:
        log.warning("entry %s: %s is %r, known are %s; it is ignored", name, key, value, ", ".join(known))
        return ""
    return value


def _with_steps(name: str, configs: dict[str, EntryConfig]) -> set[str]:
    names: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in names:
            names.add(current)
            waiting += configs[current].steps if current in configs else ()
    return names


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
