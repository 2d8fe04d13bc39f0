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
# Memory is asked for weights so many bytes before they are needed. Left alone the processor looks no further ahead than
# a page, and with several rows not even as far.
AHEAD = 8192
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


def _adder(groups: int) -> Callable[..., Any]:
    """`add_packed` for so many times 16 outputs."""

    def add_packed(
        context: Any, x: Any, records: Any, exponents: Any, starts: Any, sums: Any, ahead: Any, stride: Any
    ) -> Any:
        def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
            x, records, exponents, starts, sums = _arrays(target, builder, signature, values)
            ahead, stride = values[5:]
            table = _load(builder, exponents.data, 0, _WORDS)
            places = [_group(builder, records, group) for group in range(groups)]

            def reader(place: Any) -> Callable[..., Any]:
                def weights(builder: Any, index: Any, number: int) -> Any:
                    if number == 0:
                        soon = builder.add(ahead, builder.mul(index, stride))
                        _prefetch(builder, _at(builder, place, soon), PACKED_BYTES)
                    record = _at(builder, place, builder.mul(index, _INT64(PACKED_BYTES)))
                    return _unpacked(builder, record, number, table)

                return weights

            last = builder.sub(_dimension(builder, x, 0), _INT64(1))
            end = builder.append_basic_block("end")
            which = builder.switch(last, end)
            for number, rows in enumerate(ROW_BLOCKS):
                block = builder.append_basic_block(f"rows{rows}")
                for covered in range(ROW_BLOCKS[number - 1] if number else 0, rows):
                    which.add_case(_INT64(covered), block)
                builder.position_at_end(block)
                _add_products(builder, [reader(place) for place in places], rows, x, last, starts, sums)
                builder.branch(end)
            builder.position_at_end(end)
            return target.get_dummy_value()

        return types.void(x, records, exponents, starts, sums, types.intp, types.intp), generate

    return generated(add_packed)


# sums [rows, 16 or 32] float32 = starts + x [rows, inputs] times the `records` [1 or 2, inputs / 8, 192] of 16 outputs
# each; `starts` is like `sums`, or one row for all. `x` has at most as many rows as the greatest of ROW_BLOCKS; `sums`
# has room for that many. With each record memory is asked for as many bytes from `ahead` on, counted from the first
# record, and with the next one from `stride` further on.
add_packed, add_packed_pair = _adder(1), _adder(2)


def _plain_adder(asks: bool) -> Callable[..., Any]:
    """`add_plain`, and with three more arguments `add_plain_asking`."""

    def generate_from(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, panel, starts, sums, *soon = _arrays(target, builder, signature, values)

        def reader(group: int) -> Callable[..., Any]:
            place = _group(builder, panel, group)

            def weights(builder: Any, index: Any, number: int) -> Any:
                if asks and number == 0:
                    line = builder.add(values[5], builder.mul(index, values[6]))
                    _prefetch(builder, _at(builder, _group(builder, soon[0], group), line), _LINE)
                record = _at(builder, place, builder.mul(index, _INT64(PLAIN_BYTES)))
                return _load(builder, record, 64 * number, _WEIGHTS)

            return weights

        last = builder.sub(_dimension(builder, x, 0), _INT64(1))
        _add_products(builder, [reader(group) for group in range(2)], ROW_BLOCKS[-1], x, last, starts, sums)
        return target.get_dummy_value()

    def add_plain(context: Any, x: Any, panel: Any, starts: Any, sums: Any) -> Any:
        return types.void(x, panel, starts, sums), generate_from

    def add_plain_asking(
        context: Any, x: Any, panel: Any, starts: Any, sums: Any, soon: Any, ahead: Any, stride: Any
    ) -> Any:
        return types.void(x, panel, starts, sums, soon, types.intp, types.intp), generate_from

    return generated(add_plain_asking if asks else add_plain)


# As `add_packed_pair`, with the plain records of 32 outputs, panel [2, inputs / 8, 128]. The second one asks with each
# record for a line of two groups of records `soon` [2, n, 192], at `ahead` first and `stride` bytes further each time.
add_plain, add_plain_asking = _plain_adder(False), _plain_adder(True)


@generated
def unpack(context: Any, records: Any, exponents: Any, plain: Any) -> Any:
    """plain [n, 128] uint16 = what is in `records` [n, 192]."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        records, exponents, plain = _arrays(target, builder, signature, values)
        table = _load(builder, exponents.data, 0, _WORDS)

        def body(builder: Any, index: Any) -> None:
            record = _at(builder, records.data, builder.mul(index, _INT64(PACKED_BYTES)))
            _prefetch(builder, _at(builder, record, _INT64(AHEAD // 2)), PACKED_BYTES)
            written = _at(builder, plain.data, builder.mul(index, _INT64(PLAIN_BYTES)))
            for number in range(4):
                _store(builder, _unpacked(builder, record, number, table), written, 64 * number)

        with cgutils.for_range(builder, _dimension(builder, records, 0)) as loop:
            body(builder, loop.index)
        return target.get_dummy_value()

    return types.void(records, exponents, plain), generate


@generated
def put_sums(context: Any, sums: Any, output: Any) -> Any:
    """The first 16 of each row of `output`, uint16, = those of `sums`, float32, rounded to bfloat16."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, output = _arrays(target, builder, signature, values)
        half = ir.VectorType(_BFloat(), 16)
        rounded = _external(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", half, [_SUMS])
        strides = [builder.extract_value(array.strides, 0) for array in (sums, output)]
        with cgutils.for_range(builder, _dimension(builder, output, 0)) as loop:
            found, written = (
                _at(builder, array.data, builder.mul(loop.index, stride))
                for array, stride in zip((sums, output), strides, strict=True)
            )
            _store(builder, builder.call(rounded, [_load(builder, found, 0, _SUMS)]), written, 0)
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


def _add_products(builder: Any, readers: list[Any], rows: int, x: Any, last: Any, starts: Any, sums: Any) -> None:
    """sums[row, 16 g ...] = starts[row, 16 g ...] + x[row] times what readers[g] gives of each record, for `rows` rows.

    Rows after `last` are computed as that one once more.
    """
    x_stride, starts_stride, sums_stride = (builder.extract_value(array.strides, 0) for array in (x, starts, sums))
    is_one = builder.icmp_signed("==", _dimension(builder, starts, 0), _INT64(1))
    starts_stride = builder.select(is_one, _INT64(0), starts_stride)
    inputs = []
    for row in range(rows):
        taken = builder.select(builder.icmp_signed("<", _INT64(row), last), _INT64(row), last)
        inputs.append(_at(builder, x.data, _opaque(builder, builder.mul(x_stride, taken))))
    rooms = [_at(builder, sums.data, builder.mul(sums_stride, _INT64(row))) for row in range(rows)]
    # A sum can be added to only when the one before is known: of few sums each is kept in two parts.
    parts = 3 - len(readers)
    places = [(row, group, part) for row in range(rows) for group in range(len(readers)) for part in range(parts)]
    begins = [_at(builder, starts.data, builder.mul(starts_stride, _INT64(row))) for row in range(rows)]
    firsts = [_all(_SUMS, 0) if part else _load(builder, begins[row], 64 * group, _SUMS) for row, group, part in places]

    before, loop, after = builder.block, builder.append_basic_block("records"), builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    index, kept = builder.phi(_INT64), [builder.phi(_SUMS) for _ in places]
    offset = builder.mul(index, _INT64(2 * RECORD_INPUTS))
    found = list(kept)
    for number in range(4):
        vectors = [reader(builder, index, number) for reader in readers]
        for row in range(rows):
            pair = _spread(builder, _load(builder, _at(builder, inputs[row], offset), 4 * number, _INT32))
            for group, vector in enumerate(vectors):
                place = places.index((row, group, number % parts))
                found[place] = _dot(builder, found[place], vector, pair)
    following = builder.add(index, _INT64(1))
    for phi, first, end in zip([index, *kept], [_INT64(0), *firsts], [following, *found], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(end, loop)
    records = builder.sdiv(_dimension(builder, x, 1), _INT64(RECORD_INPUTS))
    builder.cbranch(builder.icmp_signed("<", following, records), loop, after)
    builder.position_at_end(after)
    for row, group, _ in places[::parts]:
        both = found[places.index((row, group, 0)) :][:parts]
        _store(builder, builder.fadd(*both) if parts == 2 else both[0], rooms[row], 64 * group)


def _unpacked(builder: Any, record: Any, number: int, exponents: Any) -> Any:
    """One of the four vectors of a packed record."""
    code = builder.zext(_load(builder, record, 128 + 32 * (number % 2), _BYTES), _WORDS)
    # Of an index into `exponents` five bits count, so the table has all twice, whatever the other four bits begin with.
    code = builder.lshr(code, _all(_WORDS, 4)) if number >= 2 else code
    look_up = _external(builder, "llvm.x86.avx512.permvar.hi.512", _WORDS, [_WORDS, _WORDS])
    # Sign extension puts the sign where it belongs.
    rest = builder.sext(_load(builder, record, 32 * number, _BYTES), _WORDS)
    rest = builder.and_(rest, _all(_WORDS, 0x807F))
    return builder.bitcast(builder.or_(rest, builder.call(look_up, [exponents, code])), _WEIGHTS)


def _opaque(builder: Any, number: Any) -> Any:
    """The same number, of which the compiler knows nothing.

    Where it knows how far apart rows are, it derives each address from the one before, and to keep these few it loads
    more inputs at once than there are registers.
    """
    return builder.asm(ir.FunctionType(_INT64, [_INT64]), "", "=r,0", [number], False)


def _dot(builder: Any, total: Any, weights: Any, inputs: Any) -> Any:
    dot = _external(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _SUMS, [_SUMS, _WEIGHTS, _WEIGHTS])
    return builder.call(dot, [total, weights, inputs])


def _spread(builder: Any, pair: Any) -> Any:
    """Two inputs of a row, for each of 16 outputs."""
    nothing = ir.Constant(_PAIRS, ir.Undefined)
    vector = builder.insert_element(nothing, pair, _INT32(0))
    return builder.bitcast(builder.shuffle_vector(vector, nothing, _all(_PAIRS, 0)), _WEIGHTS)


def _group(builder: Any, records: Any, group: int) -> Any:
    return _at(builder, records.data, builder.mul(builder.extract_value(records.strides, 0), _INT64(group)))


def _prefetch(builder: Any, address: Any, size: int) -> None:
    fetch = _external(builder, "llvm.prefetch.p0", ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32])
    for line in range(0, size, _LINE):
        # To read, into all caches, data.
        builder.call(fetch, [_at(builder, address, _INT64(line)), _INT32(0), _INT32(3), _INT32(1)])


def _arrays(target: Any, builder: Any, signature: Any, values: Any) -> list[Any]:
    pairs = zip(signature.args, values, strict=True)
    arrays = [(kind, value) for kind, value in pairs if isinstance(kind, types.Array)]
    return [target.make_array(kind)(target, builder, value) for kind, value in arrays]


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
