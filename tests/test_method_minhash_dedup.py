"""Near-duplicate removal: components against networkx, the published bands, scopes, keys, and whose copy stays."""

from __future__ import annotations

import dataclasses
import random

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.filters.dedup_study import study
from zkaudit.training.filters.minhash import DedupOptions, deduplicate, hit_probability, ngrams, normalised

SHORT = DedupOptions(shortest=20, ngram=5)


def text(seed: int, words: int = 60) -> str:
    chosen = random.Random(seed)
    return " ".join("".join(chosen.choices("abcdefghij", k=6)) for _ in range(words))


def edited(original: str, seed: int, words: int = 1) -> str:
    """A few words replaced: similarity above 0.9 for one word of sixty."""
    parts = original.split()
    for place in random.Random(1000 + seed).sample(range(len(parts)), words):
        parts[place] = "zzzzzz"
    return " ".join(parts)


def test_bands_and_rows_are_as_published_and_most_pairs_at_the_threshold_stay() -> None:
    found = deduplicate([text(0)], run_seed="7")
    assert (found.bands, found.rows) == (9, 13)
    curve = [hit_probability(j, 9, 13) for j in (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)]
    assert curve == pytest.approx([0.084, 0.195, 0.399, 0.686, 0.929, 0.998], abs=5e-4)


def test_sketches_meet_as_often_as_the_curve_says() -> None:
    """Pairs of a known Jaccard similarity: 1 - (1 - J^r)^b of them are joined, within four standard deviations."""
    options, pairs, base = DedupOptions(shortest=1, ngram=1, unit="words"), 150, 100
    chosen, texts = np.random.default_rng(0), []
    for _ in range(pairs):
        words = chosen.choice(10**6, base + 12, replace=False)
        texts += [" ".join(f"w{w}" for w in part) for part in (words[:base], words[12:])]
    similarity = (base - 12) / (base + 12)
    joined = sum(
        deduplicate(texts[2 * i : 2 * i + 2], run_seed=str(i), options=options).dropped.get("all", 0) for i in range(pairs)
    )
    expected = hit_probability(similarity, 9, 13)
    assert abs(joined / pairs - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5


@given(st.lists(st.integers(0, 4), min_size=1, max_size=14))
@settings(max_examples=25, deadline=None)
def test_one_of_each_component_is_kept_the_one_with_the_lowest_id(originals: list[int]) -> None:
    """Exact copies always meet, so components are known."""
    texts = [text(number) for number in originals]
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(texts)))
    graph.add_edges_from((i, j) for i in range(len(texts)) for j in range(i) if originals[i] == originals[j])
    found = deduplicate(texts, run_seed="7", options=SHORT)
    roots = {i: min(component) for component in networkx.connected_components(graph) for i in component}
    assert found.component == tuple(roots[i] for i in range(len(texts)))
    assert found.kept == tuple(sorted(set(roots.values())))


def test_a_chain_of_near_copies_is_one_component() -> None:
    chain = [text(0, 120)]
    for number in range(4):
        chain.append(edited(chain[-1], number))
    assert deduplicate(chain[::-1], run_seed="7", options=SHORT).component == (0,) * 5


def test_case_punctuation_space_and_unicode_forms_do_not_hide_a_copy() -> None:
    plain = "Caf\u00e9 au lait, s'il vous plait: " + text(1)
    other = plain.replace("\u00e9", "e\u0301").upper().replace(",", " ;").replace(" ", "\n  ")
    assert normalised(plain) == normalised(other)
    assert deduplicate([plain, other], run_seed="7", options=SHORT).kept == (0,)


def test_local_removal_leaves_copies_across_sources() -> None:
    texts, sources = [text(0), text(0), text(1), text(0)], ["a", "b", "b", "b"]
    assert deduplicate(texts, sources, run_seed="7", options=SHORT).kept == (0, 2)
    found = deduplicate(texts, sources, run_seed="7", options=dataclasses.replace(SHORT, scope="local"))
    assert found.kept == (0, 1, 2)
    assert found.dropped == {"b": 1}


def test_short_documents_are_dropped_and_counted_by_source() -> None:
    found = deduplicate(["tiny", text(0), "little"], ["a", "a", "b"], run_seed="7", options=SHORT)
    assert (found.kept, found.component, found.short) == ((1,), (-1, 1, -1), {"a": 1, "b": 1})


def test_the_order_of_sources_decides_who_loses_the_copy() -> None:
    shared, own = [text(i) for i in range(5)], [text(100 + i) for i in range(5)]
    for first, second in (("web", "books"), ("books", "web")):
        table = study([*shared, *shared, *own], [first] * 5 + [second] * 10, run_seed="7", options=SHORT)
        removed = {(row.scope, row.source): row.removed for row in table.rows}
        assert removed["global", first] == removed["local", first] == removed["none", second] == removed["local", second] == 0
        assert removed["global", second] == pytest.approx(0.5, abs=0.02)
        assert table.across == {(second, first): 5}
        assert sum(row.mixture for row in table.rows if row.scope == "global") == pytest.approx(1)
    assert "global" in table.table()


def test_sketches_are_another_with_another_seed_or_key() -> None:
    """Pairs near the threshold are found by some sketches and not by others."""
    pairs = [part for number in range(40) for part in (text(number), edited(text(number), number, 6))]
    keyed = dataclasses.replace(SHORT, key=b"shared secret")
    digests = [
        deduplicate(pairs, run_seed=seed, options=options).digest()
        for seed, options in (("7", SHORT), ("8", SHORT), ("7", keyed), ("7", SHORT))
    ]
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3
    assert "secret" not in repr(keyed)


def test_components_are_the_same_for_ever() -> None:
    """A recorded choice is replayed with them."""
    pairs = [part for number in range(12) for part in (text(number), edited(text(number), number, 6))]
    found = deduplicate(pairs, run_seed="7", options=SHORT)
    assert [i for i, root in enumerate(found.component) if i != root] == [3, 5, 9, 15]


def test_ngrams_are_of_characters_or_words() -> None:
    assert ngrams("abcd", DedupOptions(ngram=3)) == {"abc", "bcd"}
    assert ngrams("one two three", DedupOptions(ngram=2, unit="words")) == {"one two", "two three"}
    assert ngrams("ab", DedupOptions(ngram=3)) == {"ab"}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DedupOptions(scope="all"), "scope = 'all'"),
        (lambda: DedupOptions(unit="tokens"), "unit = 'tokens'"),
        (lambda: DedupOptions(threshold=1.0), "a threshold between 0 and 1"),
        (lambda: DedupOptions(key=b"k" * 65), "a key of at most 64 bytes"),
        (lambda: deduplicate(["a"], [], run_seed="7"), "1 texts, but sources of 0"),
        (lambda: study(["a"], ["b"], [], run_seed="7"), "equally many"),
    ],
)
def test_bad_input_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
