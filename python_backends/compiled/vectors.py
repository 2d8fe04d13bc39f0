"""Matrix products of bfloat16 as a processor computes them that has `vdpbf16ps` (AVX-512 BF16).

Weights are read in records: 8 inputs of 16 outputs, as four vectors of 32 numbers, of which each has two inputs for
every output. `twelve_bits.py` says how a record is kept; a plain one [128] has the four vectors one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.np.arrayobj import populate_array

from python_backends.compiled.team import HAS_TEAM, generated

RECORD_INPUTS, RECORD_OUTPUTS = 8, 16
PLAIN = RECORD_INPUTS * RECORD_OUTPUTS
PACKED_BYTES, PLAIN_BYTES = 192, 2 * PLAIN
# So many rows are multiplied with a weight that is in a register; each has one or two sums of 16 outputs there, too.
ROW_BLOCKS = (1, 2, 4, 6, 8, 10, 12)
# Memory is asked for weights so many bytes before they are needed, fewer where few records are read in a row. Left
# alone the processor looks no further ahead than a page, and with several rows not even as far.
_AHEAD, _LITTLE_AHEAD = 8192, 4096
_LINE = 64


class _BFloat(ir.Type):  # type: ignore[misc]
    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_BYTE, _INT16, _INT32, _INT64 = (ir.IntType(size) for size in (8, 16, 32, 64))
_BYTES, _WORDS = ir.VectorType(_BYTE, 32), ir.VectorType(_INT16, 32)
_WEIGHTS, _SUMS, _PAIRS = ir.VectorType(_BFloat(), 32), ir.VectorType(ir.FloatType(), 16), ir.VectorType(_INT32, 16)
_FEATURES = ("avx512f", "avx512bw", "avx512bf16")

# Whether this processor can run what is generated here.
HAS_PRODUCTS = HAS_TEAM and all(llvm.get_host_cpu_features().get(name) for name in _FEATURES)


@generated
def add_packed(context: Any, x: Any, records: Any, exponents: Any, sums: Any) -> Any:
    """sums [blocks of rows, 16] float32 += x [rows, inputs] times 16 outputs' `records` [inputs / 8, 192].

    `x` has at most as many rows as the greatest of ROW_BLOCKS; in `sums` is room for that many.
    """

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, records, exponents, sums = _arrays(target, builder, signature, values)
        table = _load(builder, exponents.data, 0, _WORDS)
        last = builder.sub(_dimension(builder, x, 0), _INT64(1))
        ends = builder.append_basic_block("end")
        which = builder.switch(last, ends)
        for number, rows in enumerate(ROW_BLOCKS):
            block = builder.append_basic_block(f"rows{rows}")
            for covered in range(ROW_BLOCKS[number - 1] if number else 0, rows):
                which.add_case(_INT64(covered), block)
            builder.position_at_end(block)

            def weights(builder: Any, index: Any) -> list[Any]:
                record = _at(builder, records.data, builder.mul(index, _INT64(PACKED_BYTES)))
                _prefetch(builder, record, PACKED_BYTES, _AHEAD)
                return _unpacked(builder, record, table)

            _add_products(builder, [weights], rows, x, last, sums)
            builder.branch(ends)
        builder.position_at_end(ends)
        return target.get_dummy_value()

    return types.void(x, records, exponents, sums), generate


@generated
def add_plain(context: Any, x: Any, panel: Any, sums: Any) -> Any:
    """sums [rows, 32] float32 += x [rows, inputs] times the plain records of 32 outputs, panel [2, inputs / 8, 128].

    `x` has any number of rows up to the greatest of ROW_BLOCKS; in `sums` is room for that many.
    """

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, panel, sums = _arrays(target, builder, signature, values)
        stride = builder.extract_value(panel.strides, 0)
        groups = [panel.data, _at(builder, panel.data, stride)]
        last = builder.sub(_dimension(builder, x, 0), _INT64(1))

        def reader(group: Any) -> Callable[..., list[Any]]:
            def weights(builder: Any, index: Any) -> list[Any]:
                record = _at(builder, group, builder.mul(index, _INT64(PLAIN_BYTES)))
                return [_load(builder, record, 64 * number, _WEIGHTS) for number in range(4)]

            return weights

        _add_products(builder, [reader(group) for group in groups], ROW_BLOCKS[-1], x, last, sums)
        return target.get_dummy_value()

    return types.void(x, panel, sums), generate


@generated
def unpack(context: Any, records: Any, exponents: Any, plain: Any) -> Any:
    """plain [n, 128] uint16 = what is in `records` [n, 192]."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        records, exponents, plain = _arrays(target, builder, signature, values)
        table = _load(builder, exponents.data, 0, _WORDS)

        def body(builder: Any, index: Any) -> None:
            record = _at(builder, records.data, builder.mul(index, _INT64(PACKED_BYTES)))
            _prefetch(builder, record, PACKED_BYTES, _LITTLE_AHEAD)
            written = _at(builder, plain.data, builder.mul(index, _INT64(PLAIN_BYTES)))
            for number, vector in enumerate(_unpacked(builder, record, table)):
                _store(builder, vector, written, 64 * number)

        with cgutils.for_range(builder, _dimension(builder, records, 0)) as loop:
            body(builder, loop.index)
        return target.get_dummy_value()

    return types.void(records, exponents, plain), generate


@generated
def put_sums(context: Any, sums: Any, output: Any) -> Any:
    """The first 16 numbers of `output`, uint16, = those of `sums` float32, rounded to bfloat16."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, output = _arrays(target, builder, signature, values)
        half = ir.VectorType(_BFloat(), 16)
        rounded = _external(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", half, [_SUMS])
        _store(builder, builder.call(rounded, [_load(builder, sums.data, 0, _SUMS)]), output.data, 0)
        return target.get_dummy_value()

    return types.void(sums, output), generate


def stack_array(dtype: Any, *shape: int) -> Callable[..., Any]:
    """A part of compiled functions that returns an array of this shape on the thread's stack, at a line's start."""
    kind = types.Array(dtype, len(shape), "C")

    def on_stack(context: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
            item = target.get_data_type(dtype)
            size, bytes_each = 1, target.get_abi_sizeof(item)
            strides: list[int] = []
            for length in reversed(shape):
                strides.insert(0, size * bytes_each)
                size *= length
            with builder.goto_entry_block():
                data = builder.alloca(item, size)
            data.align = _LINE
            array = target.make_array(kind)(target, builder)
            lengths = [_INT64(length) for length in shape]
            populate_array(array, data, lengths, [_INT64(n) for n in strides], _INT64(bytes_each), meminfo=None)
            return array._getvalue()

        return kind(), generate

    return generated(on_stack)


def _add_products(builder: Any, readers: list[Any], rows: int, x: Any, last: Any, sums: Any) -> None:
    """sums[row, 16 g ...] += x[row] times what readers[g] gives of each record, for `rows` rows.

    Rows after `last` are computed as that one once more.
    """
    x_stride, sums_stride = (builder.extract_value(array.strides, 0) for array in (x, sums))
    inputs = []
    for row in range(rows):
        taken = builder.select(builder.icmp_signed("<", _INT64(row), last), _INT64(row), last)
        inputs.append(_at(builder, x.data, builder.mul(x_stride, taken)))
    rooms = [_at(builder, sums.data, builder.mul(sums_stride, _INT64(row))) for row in range(rows)]
    # A sum can be added to only when the one before is known: of few sums each is kept in two parts.
    parts = 3 - len(readers)
    places = [(row, group, part) for row in range(rows) for group in range(len(readers)) for part in range(parts)]
    starts = [_all(_SUMS, 0) if part else _load(builder, rooms[row], 64 * group, _SUMS) for row, group, part in places]

    before, loop, after = builder.block, builder.append_basic_block("records"), builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    index, kept = builder.phi(_INT64), [builder.phi(_SUMS) for _ in places]
    vectors = [reader(builder, index) for reader in readers]
    offset = builder.mul(index, _INT64(2 * RECORD_INPUTS))
    found = list(kept)
    for pair in range(4):
        for row in range(rows):
            both = _load(builder, _at(builder, inputs[row], offset), 4 * pair, _INT32)
            spread = _spread(builder, both)
            for group in range(len(readers)):
                place = places.index((row, group, pair % parts))
                found[place] = _dot(builder, found[place], vectors[group][pair], spread)
    following = builder.add(index, _INT64(1))
    for phi, start, end in zip([index, *kept], [_INT64(0), *starts], [following, *found], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(end, loop)
    records = builder.sdiv(_dimension(builder, x, 1), _INT64(RECORD_INPUTS))
    builder.cbranch(builder.icmp_signed("<", following, records), loop, after)
    builder.position_at_end(after)
    for row, group, _ in places[::parts]:
        both = found[places.index((row, group, 0)) :][:parts]
        _store(builder, builder.fadd(*both) if parts == 2 else both[0], rooms[row], 64 * group)


def _unpacked(builder: Any, record: Any, exponents: Any) -> list[Any]:
    """The four vectors of a packed record. Of an index into `exponents` five bits count, so the table has all twice."""
    both = [builder.zext(_load(builder, record, 128 + 32 * half, _BYTES), _WORDS) for half in range(2)]
    codes = both + [builder.lshr(words, _all(_WORDS, 4)) for words in both]
    look_up = _external(builder, "llvm.x86.avx512.permvar.hi.512", _WORDS, [_WORDS, _WORDS])
    vectors = []
    for number, code in enumerate(codes):
        # Sign extension puts the sign where it belongs.
        rest = builder.sext(_load(builder, record, 32 * number, _BYTES), _WORDS)
        rest = builder.and_(rest, _all(_WORDS, 0x807F))
        vectors.append(builder.bitcast(builder.or_(rest, builder.call(look_up, [exponents, code])), _WEIGHTS))
    return vectors


def _dot(builder: Any, total: Any, weights: Any, inputs: Any) -> Any:
    dot = _external(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _SUMS, [_SUMS, _WEIGHTS, _WEIGHTS])
    return builder.call(dot, [total, weights, inputs])


def _spread(builder: Any, pair: Any) -> Any:
    """Two inputs of a row, for each of 16 outputs."""
    nothing = ir.Constant(_PAIRS, ir.Undefined)
    vector = builder.insert_element(nothing, pair, _INT32(0))
    return builder.bitcast(builder.shuffle_vector(vector, nothing, _all(_PAIRS, 0)), _WEIGHTS)


def _prefetch(builder: Any, address: Any, size: int, ahead: int) -> None:
    fetch = _external(builder, "llvm.prefetch.p0", ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32])
    for line in range(0, size, _LINE):
        # To read, into all caches, data.
        builder.call(fetch, [_at(builder, address, _INT64(ahead + line)), _INT32(0), _INT32(3), _INT32(1)])


def _arrays(target: Any, builder: Any, signature: Any, values: Any) -> list[Any]:
    pairs = zip(signature.args, values, strict=True)
    return [target.make_array(kind)(target, builder, value) for kind, value in pairs]


def _dimension(builder: Any, array: Any, axis: int) -> Any:
    return builder.extract_value(array.shape, axis)


def _at(builder: Any, pointer: Any, offset: Any) -> Any:
    return builder.gep(builder.bitcast(pointer, _BYTE.as_pointer()), [offset])


def _load(builder: Any, pointer: Any, offset: int, kind: Any) -> Any:
    address = builder.bitcast(_at(builder, pointer, _INT64(offset)), kind.as_pointer())
    loaded = builder.load(address)
    loaded.align = 1
    return loaded


def _store(builder: Any, value: Any, pointer: Any, offset: int) -> None:
    address = builder.bitcast(_at(builder, pointer, _INT64(offset)), value.type.as_pointer())
    builder.store(value, address).align = 1


def _all(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _external(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)
