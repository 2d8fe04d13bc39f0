"""Decode workers as seen from the entry: files are opened, and give their pieces one by one.

Knows processes and pipes; refuses to know what a worker does with a file. A worker that dies takes no request with it
but the one it was working on: the others are opened again in its successor.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from python_backends.audio.decode_worker import EndOfFile, Failure, FileToDecode, LogMelPiece, Reply
from python_backends.audio.features import LogMel
from python_backends.errors import InternalFault, InvalidInput

# One piece is at most five minutes of sound, which takes a second or two.
_REPLY_TIMEOUT_S = 60.0
_ROOT = Path(__file__).resolve().parents[2]


class DecodePool:
    """`num_workers` processes. The first is started at once, the others when they are first needed."""

    def __init__(self, log_mel: LogMel, num_workers: int) -> None:
        self._workers = [_Worker(log_mel) for _ in range(num_workers)]
        self._workers[0].start()

    def __repr__(self) -> str:
        return f"<DecodePool of {len(self._workers)}, {sum(worker.num_open for worker in self._workers)} files open>"

    def open(self, file: FileToDecode) -> DecodedFile:
        return DecodedFile(min(self._workers, key=lambda worker: worker.num_open), file)

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()


class DecodedFile:
    """One file in a worker. Safe to use from one thread at a time; close it in any case."""

    def __init__(self, worker: _Worker, file: FileToDecode) -> None:
        self._worker = worker
        self._file = file
        self._id = -1
        self._life = -1
        self._num_taken = 0
        worker.num_open += 1
        self._closed = False

    def next(self) -> LogMelPiece | EndOfFile:
        """The next piece, or the end. Raises InvalidInput, naming `audio`, or InternalFault."""
        with self._worker.lock:
            if self._closed:
                raise InternalFault("the file is closed already")
            while self._life != self._worker.life or self._worker.dead:
                self._open_again()
            reply: Reply = self._worker.ask("next", self._id)
        if isinstance(reply, Failure):
            kind = InvalidInput if reply.code == InvalidInput.code else InternalFault
            raise kind(reply.message, reply.field)
        self._num_taken += 1
        return reply

    def close(self) -> None:
        """Idempotent. A worker that is gone has closed its files already."""
        with self._worker.lock, suppress(InternalFault):
            if self._closed:
                return
            self._closed = True
            self._worker.num_open -= 1
            if self._life == self._worker.life and not self._worker.dead:
                self._worker.tell("close", self._id)

    def _open_again(self) -> None:
        """The same pieces come out of the same file, so those that were taken already are passed over."""
        self._life, self._id = self._worker.open(self._file)
        for _ in range(self._num_taken):
            self._worker.ask("next", self._id)


class _Worker:
    """One process and the pipe to it; hold `lock` around every use."""

    def __init__(self, log_mel: LogMel) -> None:
        self.lock = threading.Lock()
        self.num_open = 0
        # Counts processes: a file that was opened in an earlier one is unknown to this one.
        self.life = 0
        self._log_mel = log_mel
        self._ids = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Any = None

    @property
    def dead(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def open(self, file: FileToDecode) -> tuple[int, int]:
        """The worker's life and the file's id in it."""
        if self.dead:
            self.start()
        file_id = next(self._ids)
        try:
            self.tell("open", file_id, file)
        except InternalFault:
            # It died since it was last asked; nobody has seen this file yet.
            self.start()
            self.tell("open", file_id, file)
        return self.life, file_id

    def ask(self, *message: Any) -> Any:
        """Raises InvalidInput when the worker dies over it or does not answer: the file is at fault."""
        try:
            self._connection.send(message)
            if self._connection.poll(_REPLY_TIMEOUT_S):
                return self._connection.recv()
        except (OSError, EOFError):
            pass
        self.stop()
        raise InvalidInput("the audio could not be decoded: the decoder crashed or ran out of time over it", "audio")

    def tell(self, *message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            self.stop()
            raise InternalFault("the audio decoder is gone") from error

    def stop(self) -> None:
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def start(self) -> None:
        self.stop()
        ours, theirs = socket.socketpair()
        path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        # Not by -m: what the worker then pickles would be of a module __main__, which here is another one.
        program = "from python_backends.audio.decode_worker import main; main()"
        command = [sys.executable, "-c", program, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        self._connection = Connection(ours.detach())
        self._connection.send(self._log_mel)
        self.life += 1
