"""Vectors of numbers where LLVM finds none by itself: rows of fixed width, and elementary functions."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from bench.potentials.gmnn.compiled.monomials import N_MONOMIALS


def _has_avx512() -> bool:
    try:
        return bool(binding.get_host_cpu_features().get("avx512f", False))
    except RuntimeError:  # there are processors of which LLVM does not tell
        return False


WIDE = _has_avx512()
"""Whether 32 registers hold 16 numbers each in single precision; else there are taken to be 16 of 8."""
ROW = 32
"""Width of the rows of `add_rows`: the 20 monomials, padded to whole vectors."""
HALF_ROW = ROW // 2
SHORT_ROW = 8
"""Width of the rows of `add_short_rows`: the radial functions, in parts."""
WINDOW = 64
"""So many pairs are worked out at once."""
LANES = 64
"""Width of the rows of `add_terms`: as many atoms."""


def _pieces(width: int) -> list[tuple[int, int]]:
    """Where the parts of a row begin and how wide they are: a power of two at a time, others LLVM takes apart."""
    sizes = [1 << bit for bit in reversed(range(width.bit_length())) if width >> bit & 1]
    return list(zip(itertools.accumulate([0, *sizes[:-1]]), sizes, strict=True))


def _parts_of_row(builder: Any, array: Any, row: Any, columns: int, width: int) -> list[Any]:
    """Pointers to the parts of the first `width` numbers of a row of an array of so many columns."""
    real, begin = array.data.type.pointee, builder.mul(row, ir.Constant(row.type, columns))
    found = []
    for offset, size in _pieces(width):
        at = builder.gep(array.data, [builder.add(begin, ir.Constant(row.type, offset))])
        found.append(builder.bitcast(at, ir.VectorType(real, size).as_pointer()))
    return found


def _spread(builder: Any, factor: Any, size: int) -> Any:
    """A vector of so many equal numbers."""
    undefined = ir.Constant(ir.VectorType(factor.type, size), ir.Undefined)
    single = builder.insert_element(undefined, factor, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(ir.IntType(32), size), [0] * size))


def _add_scaled(builder: Any, totals: list[Any], factor: Any, values: list[Any]) -> None:
    """Add a factor times the parts of a row to running sums."""
    for total, value in zip(totals, values, strict=True):
        product = builder.fmul(_spread(builder, factor, value.type.count), value, flags=("contract",))
        builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)


def _row_sum(
    width: int, *, stride: int = 0, fresh: bool = False, tile: int = 1, apart: tuple[int, int] = (0, 1)
) -> Callable[..., Any]:
    columns = stride or width

    @intrinsic
    @no_type_check
    def add_rows(_context, target, row, factors, start, column, count, source, first):  # noqa: ARG001 (used by type)
        """target[row + t, :] += Σ_k factors[start + k + a t, column + b t] · source[first + k, :], (a, b) = `apart`.

        For k < count and t < `tile`. The arrays are contiguous; rows are `stride` numbers apart where they are padded.
        A fresh sum begins at zero instead of what was in the row.
        """
        integer, scalar = types.int64, target.dtype
        signature = types.void(target, integer, factors, integer, integer, integer, source, integer)

        def generate(context, builder, signature, arguments):
            aligned = context.get_abi_sizeof(context.get_value_type(scalar))
            arrays = [context.make_array(signature.args[k])(context, builder, arguments[k]) for k in (0, 2, 6)]
            target_array, factor_array, source_array = arrays

            integers = arguments[1].type
            rows = [builder.add(arguments[1], ir.Constant(integers, t)) for t in range(tile)]
            places = [_parts_of_row(builder, target_array, row, columns, width) for row in rows]
            apart_at = [[ir.Constant(integers, t * step) for step in apart] for t in range(tile)]
            totals = []
            for place in places:
                totals.append([])
                for at in place:
                    vector = at.type.pointee
                    begin = ir.Constant(vector, [0.0] * vector.count) if fresh else builder.load(at, align=aligned)
                    totals[-1].append(cgutils.alloca_once(builder, vector))
                    builder.store(begin, totals[-1][-1])
            with cgutils.for_range(builder, arguments[5]) as loop:
                row = builder.add(arguments[7], loop.index)
                source = _parts_of_row(builder, source_array, row, columns, width)
                values = [builder.load(at, align=aligned) for at in source]
                for (a, b), of_row in zip(apart_at, totals, strict=True):
                    row = builder.add(builder.add(arguments[3], loop.index), a)
                    place = [row, builder.add(arguments[4], b)]
                    factor = builder.load(
                        cgutils.get_item_pointer(context, builder, signature.args[2], factor_array, place)
                    )
                    _add_scaled(builder, of_row, factor, values)
            for place, of_row in zip(places, totals, strict=True):
                for at, total in zip(place, of_row, strict=True):
                    builder.store(builder.load(total), at, align=aligned)
            return context.get_dummy_value()

        return signature, generate

    return add_rows


add_rows = _row_sum(ROW)
add_short_rows = _row_sum(SHORT_ROW)
RADIAL_TILE, CHANNEL_TILE = 5, 9
"""Radial functions, and channels of a species, that are summed side by side: as many as there usually are."""
OUTER_TILE = CHANNEL_TILE if WIDE else 3
"""Channels whose sums of `add_outer`, a row of monomials each, stay in registers."""
sum_monomial_rows = _row_sum(N_MONOMIALS, fresh=True)
sum_monomial_tile = _row_sum(N_MONOMIALS, fresh=True, tile=RADIAL_TILE)
add_short_tile = _row_sum(SHORT_ROW, tile=CHANNEL_TILE)
sum_short_rows = _row_sum(SHORT_ROW, fresh=True)
sum_short_rows_twice = _row_sum(SHORT_ROW, fresh=True, tile=2, apart=(0, WINDOW))
"""By the two halves of a table of pairs."""
sum_rows_twice = _row_sum(N_MONOMIALS, stride=ROW, fresh=True, tile=2, apart=(SHORT_ROW, 0))
add_rows_twice = _row_sum(N_MONOMIALS, stride=ROW, tile=2, apart=(SHORT_ROW, 0))
"""By two short rows."""


@intrinsic
@no_type_check
def dot_rows(_context, left, row, right, other_row):  # noqa: ARG001
    """Σ_m left[row, m] · right[other_row, m] over monomials; both have ROW columns, contiguous. Summed by halves."""
    integer, scalar = types.int64, left.dtype
    signature = scalar(left, integer, right, integer)

    def generate(context, builder, signature, arguments):
        real, lanes = context.get_value_type(scalar), ir.IntType(32)
        aligned = context.get_abi_sizeof(real)

        def piece_of(k, offset, width):
            array = context.make_array(signature.args[k])(context, builder, arguments[k])
            begin = builder.mul(arguments[k + 1], ir.Constant(arguments[k + 1].type, ROW))
            at = builder.gep(array.data, [builder.add(begin, ir.Constant(begin.type, offset))])
            return builder.load(builder.bitcast(at, ir.VectorType(real, width).as_pointer()), align=aligned)

        def product(offset, width):
            return builder.fmul(*(piece_of(k, offset, width) for k in (0, 2)))

        width, rest = HALF_ROW, N_MONOMIALS - HALF_ROW
        zeros = ir.Constant(ir.VectorType(real, rest), [0.0] * rest)
        widened = ir.Constant(ir.VectorType(lanes, width), [min(n, rest) for n in range(width)])
        total = builder.fadd(product(0, width), builder.shuffle_vector(product(width, rest), zeros, widened))
        while width > 1:
            width //= 2
            low, high = (
                ir.Constant(ir.VectorType(lanes, width), list(range(first, first + width))) for first in (0, width)
            )
            halves = [builder.shuffle_vector(total, ir.Constant(total.type, ir.Undefined), one) for one in (low, high)]
            total = builder.fadd(*halves)
        return builder.extract_element(total, ir.Constant(lanes, 0))

    return signature, generate


def _outer_sum(tile: int) -> Callable[..., Any]:
    @intrinsic
    @no_type_check
    def add_outer(_context, target, row, channel, tables, chosen, which, count):  # noqa: ARG001
        """target[row + k, :] += Σ_p f[k, p] · g[p, :] + f[k, WINDOW + p] · h[p, :], with f, g, h = `tables`.

        Over p = chosen[which, n], n < count, for `channel` ≤ k < `channel` + `tile`. The target has a column for every
        monomial, g and h have ROW; all are contiguous.
        """
        integer, scalar = types.int64, target.dtype
        signature = types.void(target, integer, integer, tables, chosen, integer, integer)

        def generate(context, builder, _signature, arguments):
            aligned = context.get_abi_sizeof(context.get_value_type(scalar))
            target_array = context.make_array(target)(context, builder, arguments[0])
            chosen_array = context.make_array(chosen)(context, builder, arguments[4])
            table_arrays = [
                context.make_array(tables[k])(context, builder, builder.extract_value(arguments[3], k))
                for k in range(len(tables))
            ]

            def parts_of(array, row, columns):
                return _parts_of_row(builder, array, row, columns, N_MONOMIALS)

            channels = [builder.add(arguments[2], ir.Constant(arguments[2].type, t)) for t in range(tile)]
            places = [parts_of(target_array, builder.add(arguments[1], k), N_MONOMIALS) for k in channels]
            totals = [
                [cgutils.alloca_once_value(builder, builder.load(at, align=aligned)) for at in place]
                for place in places
            ]
            with cgutils.for_range(builder, arguments[6]) as loop:
                at = cgutils.get_item_pointer(context, builder, chosen, chosen_array, [arguments[5], loop.index])
                p = builder.load(at)
                for half in range(2):
                    values = [builder.load(at, align=aligned) for at in parts_of(table_arrays[1 + half], p, ROW)]
                    column = builder.add(p, ir.Constant(p.type, half * WINDOW))
                    for k, of_row in zip(channels, totals, strict=True):
                        at = cgutils.get_item_pointer(context, builder, tables[0], table_arrays[0], [k, column])
                        factor = builder.load(at)
                        _add_scaled(builder, of_row, factor, values)
            for place, of_row in zip(places, totals, strict=True):
                for at, total in zip(place, of_row, strict=True):
                    builder.store(builder.load(total), at, align=aligned)
            return context.get_dummy_value()

        return signature, generate

    return add_outer


add_outer = _outer_sum(1)
add_outer_tile = _outer_sum(OUTER_TILE)


@intrinsic
@no_type_check
def add_terms(_context, target, row, factors, left, left_rows, right, right_rows, first, last):  # noqa: ARG001
    """target[row, :] += Σ_k factors[k] · left[left_rows[k], :] · right[right_rows[k], :], first ≤ k < last; contiguous.

    The arrays have LANES columns; the sum stays in registers.
    """
    integer, scalar = types.int64, target.dtype
    signature = types.void(target, integer, factors, left, left_rows, right, right_rows, integer, integer)

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(context.get_value_type(scalar), LANES)
        aligned = context.get_abi_sizeof(context.get_value_type(scalar))
        arrays = {k: context.make_array(signature.args[k])(context, builder, arguments[k]) for k in (0, 2, 3, 4, 5, 6)}
        undefined, lanes = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), LANES)

        def row_of(array, index):
            at = builder.gep(array.data, [builder.mul(index, ir.Constant(index.type, LANES))])
            return builder.bitcast(at, vector.as_pointer())

        def element(k, index):
            return builder.load(cgutils.get_item_pointer(context, builder, signature.args[k], arrays[k], [index]))

        at = row_of(arrays[0], arguments[1])
        total = cgutils.alloca_once_value(builder, builder.load(at, align=aligned))
        with cgutils.for_range(builder, builder.sub(arguments[8], arguments[7])) as loop:
            k = builder.add(arguments[7], loop.index)
            single = builder.insert_element(undefined, element(2, k), ir.Constant(ir.IntType(32), 0))
            spread = builder.shuffle_vector(single, undefined, ir.Constant(lanes, [0] * LANES))
            one = builder.load(row_of(arrays[3], element(4, k)), align=aligned)
            other = builder.load(row_of(arrays[5], element(6, k)), align=aligned)
            product = builder.fmul(builder.fmul(spread, one, flags=("contract",)), other, flags=("contract",))
            builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        builder.store(builder.load(total), at, align=aligned)
        return context.get_dummy_value()

    return signature, generate


TILE = 16 if WIDE else 8
"""So many numbers of a row are worked on at once by `by_lanes`."""
SQUARE = 8
"""Side of the squares of `transpose_square`."""


@intrinsic
@no_type_check
def transpose_square(_context, source, row, column, target, other_row, other_column):  # noqa: ARG001
    """target[other_row + b, other_column + a] = source[row + a, column + b] for a, b < SQUARE; both contiguous."""
    integer, scalar = types.int64, source.dtype
    signature = types.void(source, integer, integer, target, integer, integer)

    def generate(context, builder, signature, arguments):
        real, lanes = context.get_value_type(scalar), ir.IntType(32)
        aligned = context.get_abi_sizeof(real)

        def part_of(k, below, beyond, size):
            array = context.make_array(signature.args[k])(context, builder, arguments[k])
            width = cgutils.unpack_tuple(builder, array.shape)[1]
            begin = builder.mul(builder.add(arguments[k + 1], ir.Constant(width.type, below)), width)
            place = builder.add(begin, builder.add(arguments[k + 2], ir.Constant(width.type, beyond)))
            return builder.bitcast(builder.gep(array.data, [place]), ir.VectorType(real, size).as_pointer())

        def shuffle(left, right, chosen):
            return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(lanes, SQUARE), chosen))

        # the upper and the lower rows side by side, columns 0 to 3, then 4 to 7: two squares of 4 × 4, each within one
        # half of a vector, which processors shuffle fastest; twice, row n beside row n + 2, element by element
        half = SQUARE // 2
        lower, upper = (
            [k + part + beside for part in (0, half) for k in (begin, begin + 1) for beside in (0, SQUARE)]
            for begin in (0, half // 2)
        )
        for first in (0, half):
            values = [
                shuffle(
                    *(builder.load(part_of(0, n + below, first, half), align=aligned) for below in (0, half)),
                    list(range(SQUARE)),
                )
                for n in range(half)
            ]
            for _ in range(2):
                values = [shuffle(values[n], values[n + 2], chosen) for n in range(2) for chosen in (lower, upper)]
            for n, value in enumerate(values):
                builder.store(value, part_of(3, first + n, 0, SQUARE), align=aligned)
        return context.get_dummy_value()

    return signature, generate


class _Lanes:
    """TILE numbers side by side, in code that LLVM is given: plain functions of numbers work on them."""

    def __init__(self, builder: Any, values: Any) -> None:
        self.builder, self.values = builder, values

    def _do(self, operation: str, other: Any, *, swapped: bool = False) -> "_Lanes":
        kind = self.values.type
        right = other.values if isinstance(other, _Lanes) else ir.Constant(kind, [float(other)] * kind.count)
        pair = (right, self.values) if swapped else (self.values, right)
        return _Lanes(self.builder, getattr(self.builder, operation)(*pair, flags=("contract",)))

    def __add__(self, other: Any) -> "_Lanes":
        return self._do("fadd", other)

    def __sub__(self, other: Any) -> "_Lanes":
        return self._do("fsub", other)

    def __mul__(self, other: Any) -> "_Lanes":
        return self._do("fmul", other)

    def __rmul__(self, other: Any) -> "_Lanes":
        return self._do("fmul", other, swapped=True)

    def __truediv__(self, other: Any) -> "_Lanes":
        return self._do("fdiv", other)


def by_lanes(function: Callable[..., Any], rows: Sequence[int]) -> Callable[..., Any]:
    """What a function does to one column of some tables, done to TILE columns at once: (tables, first column).

    The function takes a list for each table, of the numbers in the first `rows` of its rows, and returns those to write
    to one more table. The tables are contiguous.
    """

    @intrinsic
    @no_type_check
    def apply(_context, tables, column):  # noqa: ARG001
        integer = types.int64
        signature = types.void(tables, integer)

        def generate(context, builder, _signature, arguments):
            real = context.get_value_type(tables[0].dtype)
            vector = ir.VectorType(real, TILE)
            aligned = context.get_abi_sizeof(real)

            def rows_of(k, n_rows):
                one = builder.extract_value(arguments[0], k)
                array = context.make_array(tables[k])(context, builder, one)
                width = cgutils.unpack_tuple(builder, array.shape)[1]
                for n in range(n_rows):
                    index = builder.add(builder.mul(ir.Constant(width.type, n), width), arguments[1])
                    yield builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer())

            given = [
                [_Lanes(builder, builder.load(at, align=aligned)) for at in rows_of(k, n)] for k, n in enumerate(rows)
            ]
            results = function(*given)
            for at, result in zip(rows_of(len(tables) - 1, len(results)), results, strict=True):
                builder.store(result.values, at, align=aligned)
            return context.get_dummy_value()

        return signature, generate

    return apply


def exponential(x: float) -> float:
    """exp(x), accurate to rounding, in a form that LLVM vectorises; beyond the range of the type it saturates."""
    return math.exp(x)


@overload(exponential, inline="always")
@no_type_check
def _compile_exponential(x):
    """exp(x) = 2^n exp(f) with |f| ≤ ln(2)/2, by Taylor's series; 2^n is written as bits.

    n by `np.floor`: `math.floor` gives 64 bits, which many processors convert one at a time.
    """
    single = x == types.float32
    real, integer = (np.float32, np.int32) if single else (np.float64, np.int64)
    mantissa, bias = (integer(23), integer(127)) if single else (integer(52), integer(1023))
    lowest, highest = (real(-87), real(88)) if single else (real(-708), real(709))
    per_ln2, half = real(1 / math.log(2)), real(0.5)
    ln2_high = real(0.693145751953125)  # 16 bits, so that n · ln2_high is exact
    ln2_low = real(1.428606820309417232e-6)
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = (real(1 / math.factorial(k)) for k in range(14))

    def in_single(x):
        t = min(max(x, lowest), highest)
        n = integer(np.floor(t * per_ln2 + half))
        f = (t - real(n) * ln2_high) - real(n) * ln2_low
        series = c0 + f * (c1 + f * (c2 + f * (c3 + f * (c4 + f * (c5 + f * (c6 + f * c7))))))
        return series * integer((n + bias) << mantissa).view(real)

    def in_double(x):
        t = min(max(x, lowest), highest)
        n = integer(np.floor(t * per_ln2 + half))
        f = (t - real(n) * ln2_high) - real(n) * ln2_low
        high = c7 + f * (c8 + f * (c9 + f * (c10 + f * (c11 + f * (c12 + f * c13)))))
        series = c0 + f * (c1 + f * (c2 + f * (c3 + f * (c4 + f * (c5 + f * (c6 + f * high))))))
        return series * integer((n + bias) << mantissa).view(real)

    return in_single if single else in_double


def cosine_and_sine(x: float) -> tuple[float, float]:
    """(cos x, sin x) for |x| ≤ π/4, in a form that LLVM vectorises."""
    return math.cos(x), math.sin(x)


@overload(cosine_and_sine, inline="always")
@no_type_check
def _compile_cosine_and_sine(x):
    """Taylor's series; the first term left out is below 10⁻¹⁵."""
    real = np.float32 if x == types.float32 else np.float64
    c0, c2, c4, c6, c8, c10, c12, c14 = (real((-1) ** k / math.factorial(2 * k)) for k in range(8))
    s1, s3, s5, s7, s9, s11, s13, s15 = (real((-1) ** k / math.factorial(2 * k + 1)) for k in range(8))

    def series(x):
        q = x * x
        cosine = c0 + q * (c2 + q * (c4 + q * (c6 + q * (c8 + q * (c10 + q * (c12 + q * c14))))))
        sine = x * (s1 + q * (s3 + q * (s5 + q * (s7 + q * (s9 + q * (s11 + q * (s13 + q * s15)))))))
        return cosine, sine

    return series
