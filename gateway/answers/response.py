"""The answer of /v1/responses: a response object with its output items, as one body or as typed events."""

from __future__ import annotations

import time
import uuid
from typing import Any

import orjson

from gateway.answers.blocks import AnswerBlocks, Block, Step
from gateway.answers.reader import AnswerFormat
from gateway.answers.replies import Head
from gateway.deltas import CALL, CONTENT
from gateway.errors import GatewayError
from gateway.schemas.sampling import to_json
from gateway.sse import KEEP_ALIVE
from gateway.tensors import ChatOutput

# What the response says again of the request, with what it says where the client said nothing.
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
}
_ID_PREFIX = {CONTENT: "msg", CALL: "fc"}


class ResponseBody:
    """Collects one answer; `values` is the request as the client sent it. Raises InvalidRequest for JSON too deep."""

    def __init__(self, head: Head, form: AnswerFormat, with_logprobs: bool, values: dict[str, Any]) -> None:
        self.answer = AnswerBlocks(form, with_logprobs)
        self._head = head
        self._ids: list[str] = []
        given = {name: values[name] for name in _ECHOED if values.get(name) is not None}
        for name, value in given.items():
            # What cannot be said again is the client's fault now, and would be ours at the end of the answer.
            to_json(value, name)
        self._echoed = _ECHOED | given

    def add(self, output: ChatOutput) -> list[Step]:
        return self.answer.read(output)

    def body(self) -> dict[str, Any]:
        """The finished response; an answer without a word is an empty message."""
        cut = self.answer.finish_reason == "length"
        blocks = self.answer.blocks or [Block(CONTENT, 0)]
        output = [self.item(block, self.end_status(block)) for block in blocks]
        details = {"reason": "max_output_tokens"} if cut else None
        ended = {"output": output, "incomplete_details": details, "usage": self._usage()}
        return self.response("incomplete" if cut else "completed") | ended

    def response(self, status: str) -> dict[str, Any]:
        """The response object before there is anything in it."""
        return {
            "id": self._head.id,
            "object": "response",
            "created_at": self._head.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "model": self._head.model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "background": False,
            "store": False,
            "previous_response_id": None,
            "truncation": "disabled",
            **self._echoed,
        }

    def end_status(self, block: Block) -> str:
        """Of a block that has ended: only the last one can have been cut off."""
        is_last = block.index == len(self.answer.blocks) - 1
        return "incomplete" if is_last and self.answer.finish_reason == "length" else "completed"

    def item_id(self, block: Block) -> str:
        while block.index >= len(self._ids):
            self._ids.append(f"{_ID_PREFIX.get(block.kind, 'rs')}_{uuid.uuid4().hex}")
        return self._ids[block.index]

    def item(self, block: Block, status: str) -> dict[str, Any]:
        """An output item; one in progress is still empty."""
        begun = status == "in_progress"
        item: dict[str, Any] = {"id": self.item_id(block), "status": status}
        if block.kind == CALL:
            arguments = "" if begun else block.text
            return item | {
                "type": "function_call",
                "call_id": block.call_id,
                "name": block.name,
                "arguments": arguments,
            }
        content = [] if begun else [self.part(block)]
        if block.kind == CONTENT:
            return item | {"type": "message", "role": "assistant", "content": content}
        return item | {"type": "reasoning", "summary": [], "content": content}

    def part(self, block: Block, empty: bool = False) -> dict[str, Any]:
        text = "" if empty else block.text
        if block.kind != CONTENT:
            return {"type": "reasoning_text", "text": text}
        logprobs = [] if empty else block.logprobs
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _usage(self) -> dict[str, Any]:
        usage = self.answer.usage
        return {
            "input_tokens": usage.prompt,
            "input_tokens_details": {
                "cached_tokens": usage.cached,
                "cache_write_tokens": 0,
                **usage.audio_details,
            },
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.completion,
        }


class ResponseEvents:
    """The events of one streamed response, numbered in the order in which they are sent."""

    keep_alive = KEEP_ALIVE

    def __init__(self, body: ResponseBody) -> None:
        self._body = body
        # The opening has the first two numbers, but is written after the first frame.
        self._next_number = 2

    def opening(self) -> bytes:
        response = self._body.response("in_progress")
        return _event("created", 0, response=response) + _event("in_progress", 1, response=response)

    def frame(self, output: ChatOutput) -> bytes:
        frames = [self._step(step) for step in self._body.add(output)]
        if output.finish_reason and not self._body.answer.blocks:
            # A message without a word has its events too: clients build the answer from them.
            block = Block(CONTENT, 0)
            frames += [self._step(Step("begin", block)), self._step(Step("end", block))]
        return b"".join(frames)

    def closing(self) -> bytes:
        response = self._body.body()
        return self._event(response["status"], response=response)

    def failed(self, error: GatewayError) -> bytes:
        response = self._body.response("failed")
        code = {400: "invalid_prompt", 429: "rate_limit_exceeded"}.get(error.status, "server_error")
        return self._event("failed", response=response | {"error": {"code": code, "message": str(error)}})

    def _step(self, step: Step) -> bytes:
        block = step.block
        where = {"item_id": self._body.item_id(block), "output_index": block.index}
        if step.what == "begin":
            added = self._item_event("added", block, "in_progress")
            return added if block.kind == CALL else added + self._part_event("added", block, where, empty=True)
        if block.kind == CALL:
            return self._call_step(step, where)
        kind = "output_text" if block.kind == CONTENT else "reasoning_text"
        where_text = where | {"content_index": 0}
        if step.what == "text":
            more = {"logprobs": step.logprobs} if block.kind == CONTENT else {}
            return self._event(f"{kind}.delta", **where_text, delta=step.text, **more)
        more = {"logprobs": tuple(block.logprobs)} if block.kind == CONTENT else {}
        done = self._event(f"{kind}.done", **where_text, text=block.text, **more)
        return done + self._part_event("done", block, where) + self._ended(block)

    def _call_step(self, step: Step, where: dict[str, Any]) -> bytes:
        kind = "function_call_arguments"
        if step.what == "text":
            return self._event(f"{kind}.delta", **where, delta=step.text)
        done = self._event(f"{kind}.done", **where, name=step.block.name, arguments=step.block.text)
        return done + self._ended(step.block)

    def _ended(self, block: Block) -> bytes:
        return self._item_event("done", block, self._body.end_status(block))

    def _item_event(self, what: str, block: Block, status: str) -> bytes:
        return self._event(f"output_item.{what}", output_index=block.index, item=self._body.item(block, status))

    def _part_event(self, what: str, block: Block, where: dict[str, Any], empty: bool = False) -> bytes:
        return self._event(f"content_part.{what}", **where, content_index=0, part=self._body.part(block, empty))

    def _event(self, event: str, **fields: Any) -> bytes:
        self._next_number += 1
        return _event(event, self._next_number - 1, **fields)


def _event(event: str, number: int, **fields: Any) -> bytes:
    kind = f"response.{event}"
    data = orjson.dumps({"type": kind, "sequence_number": number, **fields})
    return f"event: {kind}\ndata: ".encode() + data + b"\n\n"
