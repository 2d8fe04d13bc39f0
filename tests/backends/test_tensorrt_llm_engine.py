"""The engine `tensorrt_llm` over a toy with the library's signatures, beyond the contract of all engines."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_backends.engine import EngineOptions, create_engine
from python_backends.errors import InternalFault, Unsupported
from python_backends.features import FeatureSource, LazyFeatures
from python_backends.tensorrt_llm_engine.engine import TensorRTLLMEngine
from python_backends.tensorrt_llm_engine.library import Library
from python_backends.types import FinishReason, GenerationRequest, Guide, ImageSpan, SamplingParams
from tests.backends.families import EOS, IMAGE, MAX_LEN, VOCAB, Family
from tests.backends.tensorrt_llm_stand_in import VERSIONS, maker, stand_in
from tests.backends.test_engine_contract import Ear, wait_for

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Family("qwen2", tmp_path_factory.mktemp("qwen2")).folder


@pytest.fixture
def engine(folder: Path) -> Iterator[TensorRTLLMEngine]:
    made = TensorRTLLMEngine(EngineOptions(str(folder), max_num_seqs=4), stand_in(vocab_size=VOCAB))
    yield made
    made.close()


def ask(engine: TensorRTLLMEngine, number: int, sampling: SamplingParams = GREEDY, **more: Any) -> Ear:
    ear = Ear(sampling.n)
    engine.submit(GenerationRequest(number, (5, 6, 7, 8), sampling, **more), ear)
    return ear


def calls(engine: TensorRTLLMEngine) -> list[Any]:
    found: list[Any] = engine._llm.calls
    return found


def test_the_library_gets_the_options(folder: Path) -> None:
    options = EngineOptions(str(folder), max_num_seqs=3, max_num_batched_tokens=512, kv_cache_bytes=1 << 20)
    engine = TensorRTLLMEngine(options, stand_in(VERSIONS[0]))
    given = engine._llm.arguments
    assert (given.max_batch_size, given.max_num_tokens, given.max_seq_len) == (3, 512, MAX_LEN)
    assert given.guided_decoding_backend == "llguidance" and given.enable_chunked_prefill
    assert given.kv_cache_config.enable_block_reuse and given.kv_cache_config.max_gpu_total_bytes == 1 << 20
    assert "TensorRTLLMEngine 1.2.1" in repr(engine)
    engine.close()
    engine.close()
    assert engine._llm.is_shut_down


def test_the_library_never_holds_more_than_it_may(engine: TensorRTLLMEngine) -> None:
    for ear in [ask(engine, number) for number in range(12)]:
        assert ear.wait().ended is FinishReason.LENGTH
    assert engine._llm.most_running == 4


def test_sequences_of_one_request_have_seeds_of_their_own(engine: TensorRTLLMEngine) -> None:
    ear = ask(engine, 0, SamplingParams(seed=5, n=3, max_tokens=4, ignore_eos=True)).wait()
    assert sorted(call.sampling_params.seed for call in calls(engine)) == [5, 6, 7]
    alone = ask(engine, 1, SamplingParams(seed=6, max_tokens=4, ignore_eos=True)).wait()
    assert ear.tokens(1) == alone.tokens()


def test_logprobs_of_the_drawn_and_of_the_likeliest(engine: TensorRTLLMEngine) -> None:
    two = ask(engine, 0, dataclasses.replace(GREEDY, logprobs=True, top_logprobs=2)).wait()
    none = ask(engine, 1, dataclasses.replace(GREEDY, logprobs=True)).wait()
    for event in two.events:
        assert event.logprob and len(event.logprob.top) == 2
        assert event.logprob.top[0] == (event.token_id, event.logprob.logprob)
    assert [event.logprob.top for event in none.events if event.logprob] == [()] * 6


def test_the_checkpoints_end_is_named(engine: TensorRTLLMEngine) -> None:
    ear = ask(engine, 0, SamplingParams(temperature=0.0, logit_bias={EOS: 9.0})).wait()
    assert (ear.tokens(), ear.last.finish_reason, ear.last.stop_token_id) == ([EOS], FinishReason.STOP, EOS)


def test_a_guide_and_a_salt_reach_the_library(engine: TensorRTLLMEngine) -> None:
    ask(engine, 0, dataclasses.replace(GREEDY, guide=Guide("regex", "a+")), cache_salt="tenant").wait()
    [call] = calls(engine)
    assert "a+" in call.sampling_params.guided_decoding.grammar
    assert call.cache_salt == "tenant" and call.streaming


def test_an_abort_is_passed_on(engine: TensorRTLLMEngine) -> None:
    ear = ask(engine, 0, SamplingParams(temperature=0.0, ignore_eos=True))
    assert ear.started.wait(30)
    engine.cancel(0)
    assert ear.wait().ended is FinishReason.ABORT
    wait_for(lambda: engine._llm.num_running == 0)
    assert len(ear.tokens()) < MAX_LEN - 4


def test_a_request_that_the_library_refuses_ends_alone(folder: Path) -> None:
    library = stand_in(vocab_size=VOCAB)

    class Broken(library.llm):  # type: ignore[name-defined, misc]
        def generate_async(self, **given: Any) -> Any:
            if given["cache_salt"] == "bad":
                raise RuntimeError("out of luck")
            return super().generate_async(**given)

    Broken.generate_async.__signature__ = library.llm.generate_async.__signature__  # type: ignore[attr-defined]
    engine = TensorRTLLMEngine(EngineOptions(str(folder)), dataclasses.replace(library, llm=Broken))
    bad, good = ask(engine, 0, cache_salt="bad"), ask(engine, 1)
    assert bad.wait().ended is InternalFault and "RuntimeError: out of luck" in str(bad.last.error)
    assert good.wait().ended is FinishReason.LENGTH
    engine.close()


def test_a_library_that_lacks_an_argument_fails_the_load(folder: Path) -> None:
    old = stand_in(VERSIONS[0])
    without: Library = dataclasses.replace(old, kv_cache_config=maker(VERSIONS[0], "GuidedDecodingParams"))
    with pytest.raises(ValueError, match=r"TensorRT-LLM 1\.2\.1 lacks enable_block_reuse, free_gpu_memory_fraction"):
        TensorRTLLMEngine(EngineOptions(str(folder)), without)


def test_the_context_is_the_checkpoints(folder: Path) -> None:
    with pytest.raises(ValueError, match="'max_model_len' is 9999; the checkpoint's context holds 256"):
        TensorRTLLMEngine(EngineOptions(str(folder), max_model_len=9999), stand_in())


def test_without_the_package_the_load_says_so(folder: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(ImportError, match="the engine tensorrt_llm needs the package tensorrt-llm"):
        create_engine("tensorrt_llm", EngineOptions(str(folder)))


def image(features: Any) -> ImageSpan:
    return ImageSpan(1, features, (1, 2, 2), b"digest")


def test_features_are_fetched_before_the_library_is_asked(engine: TensorRTLLMEngine) -> None:
    promise: Future[np.ndarray[Any, Any]] = Future()
    lazy = LazyFeatures(FeatureSource(lambda: promise), range(2))
    ear = Ear()
    engine.submit(GenerationRequest(0, (5, IMAGE, IMAGE, 6), GREEDY, (image(lazy),)), ear)
    time.sleep(0.05)
    assert not calls(engine)
    threading.Thread(target=promise.set_result, args=(np.ones((2, 8), np.float32),)).start()
    ear.wait()
    [call] = calls(engine)
    assert call.inputs["prompt_token_ids"] == [5, IMAGE, 6]
    assert call.inputs["multi_modal_embeddings"]["image"][0].shape == (2, 8)


def test_features_that_never_come_end_their_request(engine: TensorRTLLMEngine) -> None:
    promise: Future[np.ndarray[Any, Any]] = Future()
    promise.set_exception(Unsupported("no encoder", "image"))
    ear = Ear()
    lazy = LazyFeatures(FeatureSource(lambda: promise), range(2))
    engine.submit(GenerationRequest(0, (5, IMAGE, IMAGE, 6), GREEDY, (image(lazy),)), ear)
    assert ear.wait().ended is Unsupported


def test_models_that_count_images_in_two_dimensions_take_no_features(tmp_path: Path) -> None:
    folder = Family("qwen2_vl", tmp_path).folder
    engine = TensorRTLLMEngine(EngineOptions(str(folder)), stand_in(vocab_size=VOCAB))
    with pytest.raises(Unsupported, match="two dimensions"):
        engine.submit(GenerationRequest(0, (5, IMAGE, 6), GREEDY, (image(np.ones((1, 8), np.float32)),)), Ear())
    engine.close()
