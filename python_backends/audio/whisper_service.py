"""The `whisper` entry: an audio file or its log-mel features in, text out (decoupled). `execute` only queues."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from python_backends.audio.decode_pool import DecodePool
from python_backends.audio.decode_worker import FileToDecode
from python_backends.audio.features import LogMel
from python_backends.audio.regions import DecodedRegions, GivenRegion
from python_backends.audio.transcription import ModelFacts, Region, Transcription
from python_backends.audio.whisper_job import WhisperJob
from python_backends.audio.whisper_options import WhisperOptions
from python_backends.audio.whisper_request import WhisperRequest, read_request
from python_backends.audio.window_engine import WindowEngine
from python_backends.openmp import end_team
from python_backends.options import checkpoint_path, read_options
from python_backends.transformers_setup import keep_quiet
from python_backends.triton_io import Inputs, Responder, entry_folder, entry_parameters, load_errors_named

if TYPE_CHECKING:
    from python_backends.audio.whisper_model import WhisperModel


class WhisperService:
    """Triton's Python model for `whisper`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            folder = entry_folder(args)
            options = read_options(WhisperOptions, entry_parameters(args), folder)
            # Triton also loads this file in a short-lived process that only asks for the configuration.
            from python_backends.audio.whisper_model import WhisperModel
            from python_backends.audio.window_decoder import WindowDecoder

            keep_quiet()
            path = checkpoint_path(folder, options.model)
            self._options = options
            self._model = WhisperModel(path, options.dtype)
            self._facts = _facts(self._model)
            self._log_mel = LogMel.of_checkpoint(path)
            self._pool = DecodePool(self._log_mel, options.decode_workers)
            self._executor = ThreadPoolExecutor(options.decode_workers, "regions")
            decoder = WindowDecoder(self._model, options.max_batch, options.heads)
            decoder.rehearse()
            end_team()
            self._engine = WindowEngine(decoder, options.max_waiting)

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests and return at once; the replies come from the engine's thread."""
        for request in requests:
            responder = Responder(request)
            try:
                self._take(read_request(Inputs(request), self._model), responder)
            except Exception as error:  # becomes the error reply to this request
                responder.fail(error)

    def finalize(self) -> None:
        self._engine.close()
        self._executor.shutdown(cancel_futures=True)
        self._pool.close()

    def _take(self, request: WhisperRequest, responder: Responder) -> None:
        regions = self._regions(request)
        # Regions that are decoded together end together; whoever listens wants each as soon as it can be.
        max_open = min(2, self._options.max_batch) if request.stream else self._options.max_batch
        transcription = Transcription(
            regions, request.language, request.options, self._facts, max_open, first_alone=request.stream
        )
        try:
            self._engine.submit(WhisperJob(transcription, request, responder, self._model, regions.close))
        except Exception:  # said to the client by the caller; the file must not stay open
            regions.close()
            raise

    def _regions(self, request: WhisperRequest) -> DecodedRegions | GivenRegion:
        if request.features is not None:
            return GivenRegion(Region(request.features, request.duration))
        cut = replace(request.cut, chunk_s=self._options.chunk_length_s)
        file = self._pool.open(FileToDecode(request.audio, self._options.max_duration, cut))
        return DecodedRegions(file, self._log_mel, self._executor, self._options.max_batch, self._engine.notify)


def _facts(model: WhisperModel) -> ModelFacts:
    return ModelFacts(model.window_frames, model.timestamp_begin, model.previous, model.prompt_room)
