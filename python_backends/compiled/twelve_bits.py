"""Weights of bfloat16 in 12 bits each, exactly: what a step reads from memory is its time.

Of the 8 bits of an exponent few values occur in a matrix: of numbers spread like a bell, 15 values hold all but one in
7,000 (arXiv 2504.11651 shows the same of trained models, and codes them with 11 bits of uneven length). So a weight is
its sign and 7 bits of fraction, and 4 bits that name one of the 15 commonest exponents. The few others are zero here
and named apart.

A record of 192 bytes has 8 inputs of 16 outputs, in vectors of 32 weights, two inputs for each output: four vectors of
signs and fractions in a byte each, then for the exponents the lower 4 bits of 64 bytes for the first two vectors, the
upper ones for the others.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from python_backends.compiled.numbers import Array, as_array, wide
from python_backends.compiled.team import compiled, run_team, share
from python_backends.compiled.vectors import HAS_PRODUCTS, PACKED_BYTES, PLAIN, RECORD_INPUTS, RECORD_OUTPUTS

# So many weights of a thousand may be named apart.
_MAX_APART = 2
_NAMED = 15
_LINE, _LARGE_PAGE = 64, 2 << 20


@dataclass(frozen=True)
class TwelveBits:
    """A weight [out, in].

    records uint8 [out / 16, in / 8, 192]; exponents uint16 [32], by code, all twice, in their place in a number; apart
    int32 [n, 2], the place among the plain records of 16 outputs, and the weight's bits; starts int64 [out / 16 + 1],
    where those of each 16 outputs begin in `apart`. Outputs are filled up with zeros to whole pairs of 16.
    """

    outputs: int
    records: Array
    exponents: Array
    apart: Array
    starts: Array


def pack(weight: torch.Tensor) -> TwelveBits | None:
    """The weight [out, in], or None where it or this processor is not of the kind."""
    if not HAS_PRODUCTS or weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
        return None
    outputs, inputs = weight.shape
    if inputs % RECORD_INPUTS:
        return None
    groups = 2 * -(-outputs // (2 * RECORD_OUTPUTS))
    bits = as_array(weight.detach().contiguous())
    counts = np.zeros((torch.get_num_threads(), 256), np.int64)
    _count_exponents(bits, counts)
    names, exponents = _names(counts.sum(0))
    starts = np.zeros(groups + 1, np.int64)
    _count_apart(bits, names, starts[1:])
    starts = np.cumsum(starts)
    if starts[-1] * 1000 > weight.numel() * _MAX_APART:
        return None
    records = _aligned(groups, inputs // RECORD_INPUTS, PACKED_BYTES)
    apart = np.zeros((starts[-1], 2), np.int32)
    _pack(bits, names, starts, records, apart)
    return TwelveBits(outputs, records, exponents, apart, starts)


def _names(counts: Array) -> tuple[Array, Array]:
    """The code of each exponent, uint8 [256], and the exponent of each code, uint16 [32].

    Code 0 is that of zero, and of what is named apart.
    """
    named = np.argsort(-counts[1:], kind="stable")[:_NAMED] + 1
    names = np.zeros(256, np.uint8)
    names[named] = np.arange(1, _NAMED + 1)
    exponents = np.concatenate([[0], named]).astype(np.uint16) << 7
    return names, np.tile(exponents, 2)


def _aligned(*shape: int) -> Array:
    """Bytes that begin with a line of the processor's cache; many of them in large pages, where the system has any.

    They are read from end to end in every step: with pages of 4 KB finding them takes up to a third of the time.
    """
    size = math.prod(shape)
    border = _LARGE_PAGE if size >= _LARGE_PAGE else _LINE
    room = mmap.mmap(-1, size + border, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if border == _LARGE_PAGE:
        with suppress(OSError):
            room.madvise(mmap.MADV_HUGEPAGE)
    found = np.frombuffer(room, np.uint8)
    start = -found.ctypes.data % border
    return found[start : start + size].reshape(shape)


@compiled
def _count_exponents(bits: Array, counts: Array) -> None:
    run_team(_count_exponents_in, (bits, counts))


@compiled
def _count_exponents_in(thread: int, threads: int, bits: Array, counts: Array) -> None:
    first, last = share(thread, threads, len(bits))
    counted = counts[thread]
    for row in range(first, last):
        for number in bits[row]:
            # Zeros need no name.
            if number & 0x7FFF:
                counted[number >> 7 & 0xFF] += 1


@compiled
def _count_apart(bits: Array, names: Array, counts: Array) -> None:
    run_team(_count_apart_in, (bits, names, counts))


@compiled
def _count_apart_in(thread: int, threads: int, bits: Array, names: Array, counts: Array) -> None:
    first, last = share(thread, threads, len(counts))
    for group in range(first, last):
        apart = 0
        for row in bits[group * RECORD_OUTPUTS : (group + 1) * RECORD_OUTPUTS]:
            for number in row:
                apart += number & 0x7FFF != 0 and names[number >> 7 & 0xFF] == 0
        counts[group] = apart


@compiled
def _pack(bits: Array, names: Array, starts: Array, records: Array, apart: Array) -> None:
    run_team(_pack_groups, (bits, names, starts, records, apart))


@compiled
def _pack_groups(
    thread: int, threads: int, bits: Array, names: Array, starts: Array, records: Array, apart: Array
) -> None:
    first, last = share(thread, threads, len(records))
    for group in range(first, last):
        rows, found = bits[group * RECORD_OUTPUTS : (group + 1) * RECORD_OUTPUTS], starts[group]
        for index in range(records.shape[1]):
            record = records[group, index]
            record[:] = 0
            for output in range(len(rows)):
                for place in range(RECORD_INPUTS):
                    number = rows[output, index * RECORD_INPUTS + place]
                    code = names[number >> 7 & 0xFF]
                    vector, lane = place // 2, 2 * output + place % 2
                    if code == 0 and number & 0x7FFF:
                        apart[found, 0], apart[found, 1] = index * PLAIN + 32 * vector + lane, number
                        found += 1
                        continue
                    record[32 * vector + lane] = number >> 8 & 0x80 | number & 0x7F
                    record[128 + 32 * (vector % 2) + lane] |= code << (4 * (vector // 2))


@compiled
def add_apart(x: Array, apart: Array, sums: Array) -> None:
    """sums [rows, 16] += x [rows, inputs] times the weights of 16 outputs that are named apart."""
    for number in range(len(apart)):
        place, weight = apart[number, 0], wide(np.uint16(apart[number, 1]))
        column = place // PLAIN * RECORD_INPUTS + place % PLAIN // 32 * 2 + place % 2
        for row in range(len(x)):
            sums[row, place % 32 // 2] += wide(x[row, column]) * weight


@compiled
def put_apart(apart: Array, start: int, plain: Array) -> None:
    """Of 16 outputs put those weights that are named apart into the plain records [n, 128] from record `start` on."""
    for number in range(len(apart)):
        record, place = apart[number, 0] // PLAIN - start, apart[number, 0] % PLAIN
        if 0 <= record < len(plain):
            plain[record, place] = apart[number, 1]
