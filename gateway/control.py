"""Which checkpoint the chat entry serves, changed while running, by Triton's explicit model control.

Knows Model Garden's verbs (load, unload, status) and the parameters of docs/contracts.md; knows no HTTP. Off unless the
setting `loadable_models` names something: whoever may load can make the server read any checkpoint it allows.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from gateway.discovery import Discovery, ServedModel
from gateway.errors import Conflict, GatewayError, InvalidRequest, ModelNotFound, RouteNotFound
from gateway.replicas import Replicas
from gateway.watch import StreamWatch

log = logging.getLogger("trimodal.gateway")

# What another checkpoint leaves as it is; all else in the entry's configuration was chosen for the one before.
KEPT = frozenset({"engine", "task", "input_modalities", "vision_endpoint", "vision_model"})


@dataclass
class LoadJob:
    """One load, running or done; `status` is loading, loaded or failed."""

    model_path: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "loading"
    error: str | None = None
    started: float = field(default_factory=time.monotonic)
    seconds: float | None = None

    def body(self) -> dict[str, Any]:
        seconds = time.monotonic() - self.started if self.seconds is None else self.seconds
        told = {"status": self.status, "model_path": self.model_path, "error": self.error}
        return {"job_id": self.id, **told, "seconds": round(seconds, 3)}


class ModelControl:
    """`allowed` names folders, whose contents may be loaded, and checkpoints; one load or unload runs at a time."""

    def __init__(self, triton: Replicas, discovery: Discovery, watch: StreamWatch, allowed: Sequence[str]) -> None:
        self._triton = triton
        self._watch = watch
        self._discovery = discovery
        self._allowed = tuple(allowed)
        self._job: LoadJob | None = None
        self._task: asyncio.Task[None] | None = None
        # Triton tells no configuration of an entry that is unloaded.
        self._configs: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<ModelControl of {self._allowed or 'nothing'}, {self._job and self._job.status}>"

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def load(self, model_path: str, options: Mapping[str, str]) -> LoadJob:
        """Starts to load and returns at once. Raises Conflict while another one is loaded or loading."""
        model = self._model()
        # The checkpoint that was served last may come back as `status` names it, if only in words of the repository.
        served = self._discovery.checkpoint_of(model.entry)
        path = model_path if model_path == served else self._checked(model_path)
        self._refuse_busy()
        if self._discovery.state_of(model.entry).ready:
            raise Conflict(f"The model {model.ids[0]!r} is loaded; unload it first.", code="already_loaded")
        self._job = LoadJob(path)
        self._task = asyncio.ensure_future(self._run(self._job, model, options))
        return self._job

    async def unload(self) -> ServedModel:
        """Requests that run are let end. Raises ModelNotFound when nothing is loaded."""
        model = self._model()
        self._refuse_busy()
        if not self._discovery.state_of(model.entry).ready:
            raise ModelNotFound(f"The model {model.ids[0]!r} is not loaded.", code="not_loaded")
        entries = self._discovery.sharing_checkpoint(model.entry)
        self._watch.let_end(entries)
        for entry in entries:
            if self._discovery.state_of(entry).ready:
                self._configs[entry] = await self._triton.config_json(entry)
                await self._triton.unload(entry)
        await self._discovery.refresh()
        return model

    def status(self) -> dict[str, Any]:
        """Model Garden's documented keys, then what it really sends, then ours."""
        model = self._model()
        unready = self._discovery.unready(model)
        is_loaded = self._discovery.state_of(model.entry).ready
        info = {"id": model.ids[0], "entry": model.entry, "unready": unready, "max_model_len": model.max_model_len}
        return {
            "is_loaded": is_loaded,
            "model_path": self._discovery.checkpoint_of(model.entry) if is_loaded else None,
            "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "loaded": is_loaded,
            "loading": self._job is not None and self._job.status == "loading",
            "model_info": info if is_loaded else None,
            "job": self._job and self._job.body(),
        }

    def _model(self) -> ServedModel:
        if not self._allowed:
            text = "Model control is off; the setting loadable_models turns it on."
            raise RouteNotFound(text, code="model_control_off")
        models = [model for model in self._discovery.unique_models if model.task == "chat"]
        if len(models) != 1:
            raise Conflict(f"There are {len(models)} chat models; model control needs exactly one.", code="ambiguous")
        return models[0]

    def _checked(self, model_path: str) -> str:
        """The path as Triton shall see it. Raises InvalidRequest for one that the setting does not name."""
        if model_path in self._allowed:
            return model_path
        for folder in filter(os.path.isabs, self._allowed):
            root = os.path.realpath(folder)
            # Also follows links, so that none leads out of the folder.
            path = os.path.realpath(os.path.join(root, model_path))
            if path.startswith(root + os.sep):
                return path
        raise InvalidRequest(f"{model_path[:200]!r} is not among the loadable_models", "model_path", "not_allowed")

    def _refuse_busy(self) -> None:
        if self._job is not None and self._job.status == "loading":
            raise Conflict(f"{self._job.model_path!r} is being loaded.", code="loading")

    async def _run(self, job: LoadJob, model: ServedModel, options: Mapping[str, str]) -> None:
        try:
            for entry in self._discovery.sharing_checkpoint(model.entry):
                await self._load_entry(entry, model, job.model_path, options)
            await self._discovery.reread()
            job.status = "loaded"
        except GatewayError as error:
            job.status, job.error = "failed", str(error)
        except Exception:  # nobody awaits this task: the job is where its end is read
            log.exception("loading %s failed", job.model_path)
            job.status, job.error = "failed", "an internal fault; see the server's log"
        finally:
            job.seconds = time.monotonic() - job.started

    async def _load_entry(self, entry: str, model: ServedModel, path: str, options: Mapping[str, str]) -> None:
        if entry not in self._configs:
            # Unloaded by somebody else: as it stands in the repository, to learn its configuration.
            await self._triton.load(entry)
            self._configs[entry] = await self._triton.config_json(entry)
        config = self._configs[entry]
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        if parameters.get("model") != path:
            named = {"served_model_name": path} if entry == model.entry else {}
            parameters = {key: value for key, value in parameters.items() if key in KEPT} | {"model": path} | named
        if entry == model.entry:
            parameters |= options
        given = {key: {"string_value": value} for key, value in parameters.items()}
        await self._triton.load(entry, config | {"parameters": given})
