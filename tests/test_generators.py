"""Generators from the cache are those that hashing gives, whatever stands in the cache."""

from pathlib import Path

import numpy as np
import pytest

from zkaudit.zk import curve, generators
from zkaudit.zk.generators import COLUMNS_DOMAIN, DIGESTS, PIECE, SLOTS_DOMAIN

COUNT = 300  # more than are derived without a piece


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZKAUDIT_CACHE", str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(generators, "_known", {})


def derived(count: int = COUNT) -> curve.Points:
    return curve.generators(COLUMNS_DOMAIN, count)


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "piece"), [(domain, i) for domain in DIGESTS for i in range(len(DIGESTS[domain]))])
def test_digests_are_those_of_the_derived_generators(domain: bytes, piece: int, cache: Path) -> None:
    """A file that holds the right points is read: were the digest another one, it would be derived again."""
    first = generators._piece(domain, piece)
    (path,) = cache.iterdir()
    before = path.stat().st_mtime_ns
    assert curve.equal(first, curve.generators(domain, PIECE, piece * PIECE))
    assert curve.equal(first, generators._piece(domain, piece))
    assert path.stat().st_mtime_ns == before


def test_a_second_process_reads_what_the_first_one_derived(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert curve.equal(derived(), generators.prefix(COLUMNS_DOMAIN, COUNT))
    assert len(list(cache.iterdir())) == 1
    forget(monkeypatch)
    expected = derived()
    monkeypatch.setattr(curve, "generators", None)
    assert curve.equal(expected, generators.prefix(COLUMNS_DOMAIN, COUNT))


@pytest.mark.parametrize("damage", ["changed", "short", "empty", "other piece"])
def test_a_damaged_file_is_not_believed(damage: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    generators.prefix(COLUMNS_DOMAIN, COUNT)
    (path,) = cache.iterdir()
    data = path.read_bytes()
    changed = bytes([data[0] ^ 1]) + data[1:]
    other = curve.generators(SLOTS_DOMAIN, PIECE).tobytes()
    path.write_bytes({"changed": changed, "short": data[:-96], "empty": b"", "other piece": other}[damage])
    forget(monkeypatch)
    assert curve.equal(derived(), generators.prefix(COLUMNS_DOMAIN, COUNT))
    assert path.read_bytes() == data


def test_without_a_cache_generators_are_derived(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    for folder in ("", "/dev/null/nowhere"):
        monkeypatch.setenv("ZKAUDIT_CACHE", folder)
        forget(monkeypatch)
        assert curve.equal(derived(), generators.prefix(COLUMNS_DOMAIN, COUNT))
    assert not cache.exists()


def test_lists_grow_without_changing() -> None:
    few = generators.prefix(COLUMNS_DOMAIN, 20)
    more, most = generators.prefix(COLUMNS_DOMAIN, 200), generators.prefix(COLUMNS_DOMAIN, PIECE + 1)
    assert curve.equal(few, np.ascontiguousarray(most[:20]))
    assert curve.equal(more, np.ascontiguousarray(most[:200]))
    assert curve.equal(most, derived(PIECE + 1))
