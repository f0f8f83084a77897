"""Multi-exponentiations of ours and of others over the same points and scalars; each call returns its seconds.

These run in processes that are kept between repeats, so inputs are made once, outside the time that is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

DOMAIN = b"zkaudit-bench-msm"
MODULUS = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


def ours(points: int, threads: int) -> float:
    """One sum with scalars of full width."""
    curve, field = _core(threads)
    scalars, bases = field.from_ints(scalars_of(points)), _bases(points)
    return _timed(lambda: curve.msm(scalars, bases))


def our_rows(points: int, rows: int, threads: int) -> float:
    """One sum of 16-bit numbers for each row, all over the same points."""
    curve, _ = _core(threads)
    matrix, bases = _matrix(points, rows), _bases(points)
    return _timed(lambda: curve.msm_rows([matrix], bases))


def blst(set_up: Path, points: int) -> float:
    """A blob commitment of the c-kzg library: one sum over its 4096 points, by blst."""
    module, loaded, blob = _kzg(set_up, points)
    return _timed(lambda: module.blob_to_kzg_commitment(blob, loaded))


def arkworks(points: int) -> float:
    """One sum by arkworks."""
    module, scalars, bases = _arkworks(points)
    return _timed(lambda: module.G1Point.multiexp_unchecked(bases, scalars))


def results_agree(set_up: Path | None, arkworks_too: bool, points: int) -> bool:
    """Whether the others' sums are ours: of the same scalars, over the points that each of them has."""
    from zkaudit.zk import curve, field

    scalars, sums = field.from_ints(scalars_of(points)), []
    if set_up is not None:
        module, loaded, blob = _kzg(set_up, points)
        lines, bits = set_up.read_text().split()[2:], points.bit_length() - 1
        reversed_bits = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(points)]  # the order of a blob's numbers
        lagrange = curve.decompress(bytes.fromhex("".join(lines[i] for i in reversed_bits)))
        sums.append((module.blob_to_kzg_commitment(blob, loaded), lagrange))
    if arkworks_too:
        module, theirs, bases = _arkworks(points)
        sums.append((bytes(module.G1Point.multiexp_unchecked(bases, theirs).to_compressed_bytes()), _bases(points)))
    return all(theirs == curve.compress(curve.msm(scalars, bases)) for theirs, bases in sums)


@cache
def scalars_of(count: int) -> list[int]:
    """Scalars of full width, the same in every process."""
    data = np.random.default_rng(count).bytes(64 * count)
    return [int.from_bytes(data[i : i + 64], "big") % MODULUS for i in range(0, len(data), 64)]


@cache
def _bases(count: int) -> Any:
    from zkaudit.zk import curve

    return curve.generators(DOMAIN, count)


@cache
def _matrix(columns: int, rows: int) -> Any:
    return np.random.default_rng(rows).integers(0, 1 << 16, (rows, columns), np.uint16)


@cache
def _kzg(set_up: Path, points: int) -> tuple[Any, Any, bytes]:
    import ckzg

    blob = b"".join(scalar.to_bytes(32, "big") for scalar in scalars_of(points))
    return ckzg, ckzg.load_trusted_setup(str(set_up), 0), blob


@cache
def _arkworks(points: int) -> tuple[Any, list[Any], list[Any]]:
    import py_arkworks_bls12381

    from zkaudit.zk import curve

    encoded = curve.compress(_bases(points))
    parse = py_arkworks_bls12381.G1Point.from_compressed_bytes_unchecked
    bases = [parse(encoded[i : i + curve.POINT_BYTES]) for i in range(0, len(encoded), curve.POINT_BYTES)]
    return py_arkworks_bls12381, [py_arkworks_bls12381.Scalar(scalar) for scalar in scalars_of(points)], bases


def _core(threads: int) -> tuple[Any, Any]:
    from zkaudit.zk import curve, field

    field.set_threads(threads)
    curve.set_threads(threads)
    return curve, field


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
