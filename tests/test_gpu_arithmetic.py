"""The device's field arithmetic and XYZZ points against Python's integers and py_ecc, on the CPU and on a GPU if there is one.

`gpu_arithmetic.cpp` is built for the CPU twice: with its own arithmetic, and with the device's chains of carries emulated. The
emulation aborts where a chain loses a carry that its algorithm says cannot be.
"""

import itertools
import os
import random
import shlex
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from py_ecc.optimized_bls12_381 import FQ, G1, Z1, add, curve_order, double, field_modulus, multiply, neg, normalize

TESTS = Path(__file__).parent
HEADERS = f"-I{TESTS.parent / 'cuda'}"
SOURCE = TESTS / "gpu_arithmetic.cpp"
OPERATIONS = (
    *("copy", "add", "subtract", "multiply", "square", "multiply_full", "pair", "reduce", "total", "across"),
    *("small_sum_1_32", "small_sum_1_52", "small_sum_2_64", "invert"),
    *("point_add_affine", "point_add", "point_add_itself", "point_double", "point_negate"),
)


@dataclass(frozen=True)
class Prime:
    name: str
    modulus: int
    bits: int  # of an element's limbs

    def sizes(self, shape: str) -> list[int]:
        """Bytes of numbers: w a word, e an element, d twice an element."""
        return [{"w": 8, "e": self.bits // 8, "d": self.bits // 4}[letter] for letter in shape]

    @property
    def edges(self) -> list[int]:
        """Reduced values at which carries are all there, or all missing."""
        words = [
            sum(0xFFFFFFFF << shift for shift in range(start, self.bits, 64)) % 2 ** (self.modulus.bit_length() - 1)
            for start in (0, 32)
        ]
        ones = [(1 << length) - 1 for length in (1, 32, 64, 128, 192, self.modulus.bit_length() - 1)]
        near = [0, 2, self.modulus - 1, self.modulus - 2, self.modulus // 2, self.modulus - 2**32, 2**self.bits % self.modulus]
        return near + ones + words + [1 << 32, 1 << 64, self.modulus - 2**64]

    @property
    def any_limbs(self) -> list[int]:
        top = 2**self.bits
        return [
            *self.edges,
            self.modulus,
            self.modulus + 1,
            2 * self.modulus,
            top - 1,
            top - 2**64,
            top >> 1,
            top - self.modulus,
        ]

    def random(self, rng: random.Random, reduced: bool = True) -> int:
        if rng.random() < 0.3:
            return rng.choice(self.edges if reduced else self.any_limbs)
        return rng.randrange(self.modulus if reduced else 2**self.bits)

    def settled(self, x: int, bits: int | None = None) -> int:
        """x / 2^bits, by default the factor of a Montgomery product."""
        return x * pow(2, -(self.bits if bits is None else bits), self.modulus) % self.modulus


PRIMES = [Prime("scalar", curve_order, 256), Prime("base", field_modulus, 384)]


Execute = Callable[[list[int], bytes], bytes]


def build(folder: Path, *flags: str) -> Execute:
    """The program of these flags, run by the CPU."""
    options = ["-std=gnu++20", "-O1", HEADERS, *flags]
    subprocess.run([*shlex.split(os.environ.get("CXX", "c++")), *options, SOURCE, "-o", folder / "program"], check=True)

    def execute(numbers: list[int], data: bytes) -> bytes:
        return subprocess.run([folder / "program", *map(str, numbers)], input=data, stdout=subprocess.PIPE, check=True).stdout

    return execute


def load() -> Execute:
    """The kernel, run by a GPU."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.Device().use()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy finds no GPU: {error}")
    kernel = cupy.RawKernel(
        SOURCE.read_text(), "run_rows", options=("--std=c++20", "--device-int128", HEADERS), backend="nvrtc"
    )

    def execute(numbers: list[int], data: bytes) -> bytes:
        operation, limbs, width, out_width = numbers
        rows = len(data) // (8 * width)
        given, out = cupy.frombuffer(data, cupy.uint64), cupy.empty(rows * out_width, cupy.uint64)
        sizes = [cupy.int32(x) for x in (operation, limbs, rows, width, out_width)]
        kernel((-(-rows // 64),), (64,), (*sizes, given, out))
        return bytes(cupy.asnumpy(out).tobytes())

    return execute


class Run:
    """run(operation, prime, rows of numbers, their shape, the results' shape): the rows of results. For shapes see Prime."""

    def __init__(self, execute: Execute) -> None:
        self.execute = execute

    def __call__(self, operation: str, prime: Prime, rows: Iterable[Sequence[int]], shape: str, out: str) -> list[list[int]]:
        sizes, out_sizes = prime.sizes(shape), prime.sizes(out)
        data = b"".join(x.to_bytes(size, "little") for row in rows for x, size in zip(row, sizes, strict=True))
        numbers = [OPERATIONS.index(operation), prime.bits // 64, sum(sizes) // 8, sum(out_sizes) // 8]
        answer = self.execute(numbers, data)
        results = []
        for start in range(0, len(answer), sum(out_sizes)):
            ends = list(itertools.accumulate(out_sizes, initial=start))
            results.append([int.from_bytes(answer[a:b], "little") for a, b in itertools.pairwise(ends)])
        return results


@pytest.fixture(scope="module", params=["limbs", "carry-chains", pytest.param("gpu", marks=pytest.mark.gpu)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if request.param == "gpu":
        return Run(load())
    flags = ["-DZK_EMULATE_CARRY"] if request.param == "carry-chains" else []
    return Run(build(tmp_path_factory.mktemp("arithmetic"), *flags))


@pytest.fixture(params=PRIMES, ids=lambda prime: prime.name)
def prime(request: pytest.FixtureRequest) -> Prime:
    chosen: Prime = request.param
    return chosen


@pytest.fixture
def rng() -> random.Random:
    return random.Random(1)


def pairs(prime: Prime, rng: random.Random, reduced: bool = True) -> list[tuple[int, int]]:
    """All pairs of edges and many random ones; the second number is any limbs unless reduced."""
    edges = itertools.product(prime.edges, prime.edges if reduced else prime.any_limbs)
    return [*edges, *((prime.random(rng), prime.random(rng, reduced)) for _ in range(500))]


def test_elements_are_read_and_written(run: Run, prime: Prime, rng: random.Random) -> None:
    rows = [[prime.random(rng, False)] for _ in range(500)]
    assert rows == run("copy", prime, rows, "e", "e")


def test_sums_and_differences(run: Run, prime: Prime, rng: random.Random) -> None:
    rows = pairs(prime, rng)
    assert [[(a + b) % prime.modulus] for a, b in rows] == run("add", prime, rows, "ee", "e")
    assert [[(a - b) % prime.modulus] for a, b in rows] == run("subtract", prime, rows, "ee", "e")


def test_products_of_an_element_and_any_limbs(run: Run, prime: Prime, rng: random.Random) -> None:
    rows = pairs(prime, rng, reduced=False)
    assert [[prime.settled(a * b)] for a, b in rows] == run("multiply", prime, rows, "ee", "e")


def test_squares(run: Run, prime: Prime, rng: random.Random) -> None:
    rows = [(x,) for x in [*prime.edges, *(prime.random(rng) for _ in range(500))]]
    assert [[prime.settled(x * x)] for (x,) in rows] == run("square", prime, rows, "e", "e")


def test_full_products_of_any_limbs(run: Run, prime: Prime, rng: random.Random) -> None:
    edges = itertools.product(prime.any_limbs, repeat=2)
    rows = [*edges, *((prime.random(rng, False), prime.random(rng, False)) for _ in range(500))]
    assert [[a * b] for a, b in rows] == run("multiply_full", prime, rows, "ee", "d")


def test_lower_half_is_reduced_away(run: Run, prime: Prime, rng: random.Random) -> None:
    halves = [
        *itertools.product(prime.any_limbs, repeat=2),
        *((prime.random(rng, False), prime.random(rng, False)) for _ in range(500)),
    ]
    rows = [(low + (high << prime.bits),) for low, high in halves]
    for (t,), (over, upper) in zip(rows, run("reduce", prime, rows, "d", "we"), strict=True):
        multiple = (-t * pow(prime.modulus, -1, 2**prime.bits)) % 2**prime.bits
        assert (t + multiple * prime.modulus) >> prime.bits == (over << prime.bits) + upper


def test_pairs_of_products(run: Run, prime: Prime, rng: random.Random) -> None:
    edges = [(a, b, c, d) for (a, b), (c, d) in itertools.product(itertools.product(prime.edges[::2], repeat=2), repeat=2)]
    ends = itertools.product((0, prime.modulus - 1, prime.modulus - 2**32), repeat=4)
    rows = [*edges[:: len(edges) // 800], *ends, *((tuple(prime.random(rng) for _ in range(4))) for _ in range(500))]
    assert [[prime.settled(a * b + c * d)] for a, b, c, d in rows] == run("pair", prime, rows, "eeee", "e")


@pytest.mark.parametrize(("ending", "terms"), [("total", 1), ("total", 8), ("across", 1), ("across", 60)])
def test_sums_of_products(run: Run, prime: Prime, rng: random.Random, ending: str, terms: int) -> None:
    full = [(prime.modulus - 1,) * (2 * terms), (0,) * (2 * terms)]
    rows = full + [tuple(prime.random(rng) for _ in range(2 * terms)) for _ in range(200)]
    expected = [[prime.settled(sum(a * b for a, b in zip(row[::2], row[1::2], strict=True)))] for row in rows]
    assert expected == run(ending, prime, rows, "ee" * terms, "e")


@pytest.mark.parametrize(("digits", "bits", "terms"), [(1, 32, 40), (1, 52, 3), (2, 64, 40)])
def test_sums_of_elements_times_words(run: Run, prime: Prime, rng: random.Random, digits: int, bits: int, terms: int) -> None:
    largest = [prime.modulus - 1] + [prime.modulus - 1, 2**bits - 1] * terms
    rows = [tuple(largest), (0,) * len(largest)]
    for _ in range(200):
        words = [rng.choice((0, 1, 2**bits - 1, rng.randrange(2**bits))) for _ in range(terms)]
        rows.append((prime.random(rng), *(x for word in words for x in (prime.random(rng), word))))
    expected = [
        [
            (row[0] + prime.settled(sum(a * word for a, word in zip(row[1::2], row[2::2], strict=True)), 52 * digits))
            % prime.modulus
        ]
        for row in rows
    ]
    assert expected == run(f"small_sum_{digits}_{bits}", prime, rows, "e" + "ew" * terms, "e")


def test_inverses(run: Run, prime: Prime, rng: random.Random) -> None:
    rows = [(x,) for x in [*prime.edges, *(prime.random(rng) for _ in range(50))]]
    square = pow(2, 2 * prime.bits, prime.modulus)
    expected = [[pow(x, -1, prime.modulus) * square % prime.modulus if x else 0] for (x,) in rows]
    assert expected == run("invert", prime, rows, "e", "e")


def affine(point: Any) -> tuple[int, int]:
    """py_ecc's point as Montgomery limbs, the identity as zeros."""
    if point[2] == FQ(0):
        return 0, 0
    x, y = (int(c) << 384 for c in normalize(point))
    return x % field_modulus, y % field_modulus


def points(rng: random.Random) -> list[Any]:
    """The identity, points with their negatives and doubles, and one outside the subgroup, of order three."""
    some = [G1, multiply(G1, rng.randrange(curve_order))]
    return [Z1, *some, *map(neg, some), *map(double, some), (FQ(0), FQ(2), FQ(1)), (FQ(0), -FQ(2), FQ(1))]


def expect_points(expected: list[Any], operation: str, run: Run, rows: Iterable[Sequence[int]], shape: str) -> None:
    """Results as affine coordinates, ZZ^3 - ZZZ^2 being zero."""
    assert [[*affine(point), 0] for point in expected] == run(operation, PRIMES[1], rows, shape, "eee")


def test_sums_of_points(run: Run, rng: random.Random) -> None:
    both = [*itertools.product(points(rng), repeat=2)]
    scales = [(rng.randrange(1, field_modulus), rng.randrange(1, field_modulus)) for _ in both]
    expected = [add(a, b) for a, b in both]
    mixed = [(*affine(a), s, *affine(b)) for (a, b), (s, _) in zip(both, scales, strict=True)]
    expect_points(expected, "point_add_affine", run, mixed, "eeeee")
    general = [(*affine(a), s, *affine(b), t) for (a, b), (s, t) in zip(both, scales, strict=True)]
    expect_points(expected, "point_add", run, general, "eeeeee")


def test_doubles_and_negatives_of_points(run: Run, rng: random.Random) -> None:
    some = points(rng)
    rows = [(*affine(a), rng.randrange(1, field_modulus)) for a in some]
    doubles = [double(a) for a in some]
    expect_points(doubles, "point_double", run, rows, "eee")
    expect_points(doubles, "point_add_itself", run, rows, "eee")
    expect_points([neg(a) for a in some], "point_negate", run, rows, "eee")
