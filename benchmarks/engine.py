"""The torch engine beside the machine's own limits and beside transformers, on the same weights, in one run.

    .venv/bin/python benchmarks/engine.py --model DIR [--dtype bfloat16] [--quantization int8] [--concurrency 1,8,32]

Decoding reads every weight once per step, so its limit is the bandwidth of memory; reading a prompt multiplies every
weight with every token, so its limit is the rate of matrix multiplication. Both are measured here, before and after.
With `--quantization` the unquantised engine runs too, and how often the two agree on the next token is printed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from python_backends.engine import EngineOptions
from python_backends.torch_engine.engine import TorchEngine
from python_backends.types import GenerationRequest, SamplingParams, TokenEvent

# Kinds of work in a profile, by the beginning of an operator's name.
KINDS = {
    "linear layers": ("mkldnn::_linear_pointwise", "onednn::qlinear", "aten::addmm", "aten::mm", "aten::_weight_int"),
    "attention": ("aten::_scaled_dot_product", "aten::_fused_sdp"),
    "key and value store": ("aten::_index_put_impl_", "aten::index_put_"),
}


@dataclass(frozen=True)
class Limits:
    """bytes_per_s of reading memory, flops_per_s of multiplying matrices."""

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True)
class Load:
    """What came of some requests that were sent together; times in seconds."""

    tokens_per_s: float
    first_token: float
    inter_token: float


def best_seconds(work: Callable[[], object], seconds: float = 1.0) -> float:
    """The least time of one call, of as many as fit in `seconds`."""
    work()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


@torch.inference_mode()
def measure_limits(dtype: torch.dtype) -> Limits:
    numbers, side = torch.ones(64 << 20), 2048
    matrix = torch.randn(side, side).to(dtype)
    read = numbers.numel() * numbers.itemsize / best_seconds(numbers.sum)
    return Limits(read, 2 * side**3 / best_seconds(lambda: torch.nn.functional.linear(matrix, matrix)))


class Client:
    """Sends requests to an engine and waits for their ends."""

    def __init__(self, engine: TorchEngine, vocabulary: int, seed: int = 1) -> None:
        self.engine, self._vocabulary = engine, vocabulary
        self._dice, self._ids = random.Random(seed), 0

    def prompt(self, length: int) -> tuple[int, ...]:
        return tuple(self._dice.randrange(20, self._vocabulary) for _ in range(length))

    def run(self, prompts: Iterable[tuple[int, ...]], max_tokens: int) -> Load:
        """All prompts at once, greedy, exactly `max_tokens` tokens each."""
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
        times: list[list[float]] = []
        ended = threading.Semaphore(0)
        started = time.perf_counter()
        for prompt in prompts:
            self._ids += 1
            times.append([])
            self.engine.submit(GenerationRequest(self._ids, prompt, sampling), _note(times[-1], ended))
        for _ in times:
            ended.acquire()
        gaps = [after - before for each in times for before, after in pairwise(each)]
        return Load(
            len(times) * max_tokens / (max(each[-1] for each in times) - started),
            statistics.median(each[0] for each in times) - started,
            statistics.median(gaps) if gaps else 0.0,
        )


def _note(times: list[float], ended: threading.Semaphore) -> Callable[[TokenEvent], None]:
    def emit(event: TokenEvent) -> None:
        if event.error is not None:
            raise event.error
        times.append(time.perf_counter())
        if event.finish_reason is not None:
            ended.release()

    return emit


def weight_bytes(model: Any) -> tuple[int, int]:
    """(bytes that a step reads, weights that a token is multiplied with): all but the embedding's, plus the head's."""
    own = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    others = [parameter for parameter in model.parameters() if id(parameter) not in own]
    head = model.get_output_embeddings().weight
    if id(head) in own:
        others.append(head)
    return sum(each.numel() * each.itemsize for each in others), sum(each.numel() for each in others)


def load_plain(options: EngineOptions) -> Any:
    """The same checkpoint as transformers serves it."""
    for loader in (AutoModelForCausalLM, AutoModelForImageTextToText):
        try:
            loaded: Any = loader.from_pretrained(options.model, dtype=options.dtype)
            return loaded.eval()
        except ValueError:
            continue
    raise SystemExit(f"{options.model}: transformers has no generating model for it")


def generate(model: Any, prompts: list[tuple[int, ...]], max_tokens: int) -> float:
    """Tokens per second of transformers' own `generate` for a batch."""
    ids = torch.tensor(prompts)
    started = time.perf_counter()
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, min_new_tokens=max_tokens, do_sample=False
    )
    return len(prompts) * max_tokens / (time.perf_counter() - started)


def print_decode(client: Client, plain: Any, limits: Limits, num_bytes: int, levels: list[int]) -> None:
    print("| at once | engine tok/s | step ms | share of the bandwidth limit | transformers tok/s | ratio |")
    print("|---|---|---|---|---|---|")
    for level in levels:
        prompts = [client.prompt(128) for _ in range(level)]
        load = client.run(prompts, 64)
        theirs = generate(plain, prompts, 16)
        share = num_bytes / limits.bytes_per_s / load.inter_token
        ratio = load.tokens_per_s / theirs
        print(f"| {level} | {load.tokens_per_s:.1f} | {load.inter_token * 1e3:.1f} | {share:.0%} ", end="")
        print(f"| {theirs:.1f} | {ratio:.2f} |", flush=True)


def print_prefill(client: Client, limits: Limits, num_weights: int) -> None:
    print(
        "\n| prompt tokens | ms to the first token | tokens/s | share of the multiplication limit |\n|---|---|---|---|"
    )
    for length in (128, 512, 1024):
        seconds = min(client.run([client.prompt(length)], 1).first_token for _ in range(3))
        share = 2 * num_weights * length / limits.flops_per_s / seconds
        print(f"| {length} | {seconds * 1e3:.0f} | {length / seconds:.0f} | {share:.0%} |", flush=True)


def print_breakdown(client: Client) -> None:
    """Where the time of decoding one sequence goes; the profiler itself adds to what is not in operators."""
    with profile(activities=[ProfilerActivity.CPU], experimental_config=_ALL_THREADS) as record:
        started = time.perf_counter()
        client.run([client.prompt(16)], 32)
        wall = time.perf_counter() - started
    totals: dict[str, float] = defaultdict(float)
    for event in record.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "other operators")
        totals[kind] += event.self_cpu_time_total / 1e6
    totals["outside operators"] = max(0.0, wall - sum(totals.values()))
    print("\n| decoding one sequence | share of the time |\n|---|---|")
    for kind, seconds in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {seconds / wall:.0%} |")


_ALL_THREADS = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)


def print_accuracy(exact: TorchEngine, rounded: TorchEngine, client: Client) -> None:
    """How often the most likely next token stays the same, over beginnings of random prompts."""
    same, total = 0, 0
    for _ in range(20):
        prompt = client.prompt(64)
        texts = [next_tokens(engine, prompt) for engine in (exact, rounded)]
        same += sum(one == other for one, other in zip(*texts, strict=True))
        total += len(texts[0])
    print(f"\nnext tokens unchanged by rounding, one at a time from the exact text: {same / total:.1%} of {total}")


def next_tokens(engine: TorchEngine, prompt: tuple[int, ...]) -> list[int]:
    """The likeliest token after each beginning of `prompt`."""
    found: list[int] = []
    ended = threading.Event()

    def emit(event: TokenEvent) -> None:
        found.extend([] if event.token_id is None else [event.token_id])
        if event.finish_reason is not None or event.error is not None:
            ended.set()

    sampling = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    for length in range(16, len(prompt)):
        ended.clear()
        engine.submit(GenerationRequest(-length, prompt[:length], sampling), emit)
        ended.wait()
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--concurrency", default="1,8,32")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    dtype = getattr(torch, arguments.dtype)
    options = EngineOptions(model=arguments.model, dtype=arguments.dtype, enable_prefix_caching=False)
    limits = measure_limits(dtype)
    plain = load_plain(options)
    num_bytes, num_weights = weight_bytes(plain)
    engine = TorchEngine(replace(options, quantization=arguments.quantization))
    client = Client(engine, plain.config.get_text_config().vocab_size)
    client.run([client.prompt(32)], 8)
    levels = [int(level) for level in arguments.concurrency.split(",")]
    print_decode(client, plain, limits, num_bytes, levels)
    print_prefill(client, limits, num_weights)
    print_breakdown(client)
    if arguments.quantization != "none":
        exact = TorchEngine(options)
        print_accuracy(exact, engine, client)
        exact.close()
    engine.close()
    after = measure_limits(dtype)
    print(
        f"\nreading memory: {limits.bytes_per_s / 1e9:.1f} GB/s before, {after.bytes_per_s / 1e9:.1f} after; ", end=""
    )
    print(f"multiplying {dtype}: {limits.flops_per_s / 1e9:.0f} GFLOP/s before, {after.flops_per_s / 1e9:.0f} after")


if __name__ == "__main__":
    main()
