"""The responses to one request: of one generation with one choice or several, or of several generations as one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gateway.errors import GatewayError, Unavailable, UpstreamFault
from gateway.limits import Permit
from gateway.tensors import ChatOutput, chat_output
from gateway.triton import TritonStream


class Generation:
    """One stream of `llm` and the `num_sequences` choices in it, of which the first has the number `first_index`."""

    def __init__(self, stream: TritonStream, num_sequences: int = 1, first_index: int = 0) -> None:
        self.num_open = num_sequences
        self.num_input_tokens = self.num_output_tokens = 0
        self._stream = stream
        self._first_index = first_index
        self._indices = range(first_index, first_index + num_sequences)

    def __repr__(self) -> str:
        return f"<Generation of choices {self._indices}, {self.num_open} open>"

    async def next(self) -> ChatOutput:
        """Raises GatewayError; also for a stream that ends before each choice has its finish_reason."""
        raw = await anext(self._stream, None)
        if raw is None:
            raise UpstreamFault("The model ended its answer without a finish_reason.")
        output = chat_output(raw, self._first_index)
        # A compact response does not say it again.
        self.num_input_tokens = output.num_input_tokens or self.num_input_tokens
        self.num_output_tokens += output.num_output_tokens
        if output.choice not in self._indices:
            raise UpstreamFault("The model sent a sequence that nobody asked for.")
        if output.finish_reason:
            self.num_open -= 1
            self._stream.finished = self.num_open == 0
            if output.finish_reason == "abort":
                raise Unavailable("The generation was aborted.", code="aborted")
        return output


class Outputs:
    """Reads all generations of a request, in the order in which they speak. `num_open` choices have not ended yet.

    The permit goes back with the last response: a client that has read its end must not meet its own shadow at the
    door. `names` are the client's names for fields that have another one on the wire.
    """

    def __init__(self, generations: Sequence[Generation], permit: Permit, names: Mapping[str, str]) -> None:
        self.count = 0
        # Counted by what has been read: a task may hold a last response that nobody has asked for yet.
        self.num_open = sum(generation.num_open for generation in generations)
        self._generations = generations
        self._permit = permit
        self._names = names
        self._first: ChatOutput | None = None
        self._reading: dict[asyncio.Task[ChatOutput], Generation] = {}

    def __repr__(self) -> str:
        return f"<Outputs {self.count} read, {self.num_open} choices open>"

    @property
    def num_tokens(self) -> int:
        """Of all prompts and of what has been read of the answers."""
        return sum(one.num_input_tokens + one.num_output_tokens for one in self._generations)

    async def peek(self) -> None:
        """Waits for the first response, which `next` will return. Raises GatewayError, as `next` does."""
        self._first = await self._read()

    async def next(self) -> ChatOutput:
        """Raises GatewayError, under the client's own name for the field at fault."""
        output, self._first = self._first or await self._read(), None
        self.count += 1
        if output.finish_reason:
            self.num_open -= 1
            if not self.num_open:
                self._permit.release()
        return output

    async def _read(self) -> ChatOutput:
        try:
            return await (self._generations[0].next() if len(self._generations) == 1 else self._next_of_many())
        except GatewayError as error:
            self._permit.release()
            raise error.under(self._names) from None

    async def close(self) -> None:
        """Stops reading; to be called before the streams are left."""
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)

    async def _next_of_many(self) -> ChatOutput:
        being_read = set(self._reading.values())
        for generation in self._generations:
            if generation.num_open and generation not in being_read:
                self._reading[asyncio.ensure_future(generation.next())] = generation
        done, _ = await asyncio.wait(self._reading, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        del self._reading[task]
        return task.result()
