"""Recycling: only better rewrites with the facts stay, and every document is traced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Rule, sha256
from zkaudit.training.generation.recycle import (
    PROMPT,
    Recycle,
    RecycleOptions,
    fact_overlap,
    facts,
    rewrite_in,
    traced,
)

ALL = RecycleOptions(keep=1.0)


def document_in(prompt: str) -> str:
    return prompt.split("----\n")[1].removesuffix("\n")


def cleaned(prompt: str) -> str:
    return "I plan. Improved document: " + document_in(prompt).replace("#", "")


CLEANER = Rule(lambda ask, _: cleaned(ask.prompt), "cleaner")
DOCUMENTS = ["a#b c", "clean", "#d #e #f", "x##"]


def cleanliness(text: str) -> float:
    return -float(text.count("#"))


def test_the_generator_sees_the_document_and_what_is_after_the_marker_counts() -> None:
    found = Recycle(CLEANER, cleanliness, "run", ALL)(DOCUMENTS)
    assert [each.text for each in found.kept] == ["ab c", "clean", "d e f", "x"]
    assert rewrite_in("no marker at all ", "Improved document:") == "no marker at all"
    assert rewrite_in("Improved document: a Improved document:\nb", "Improved document:") == "b"


def test_a_rewrite_that_gains_too_little_is_thrown_away() -> None:
    found = Recycle(CLEANER, cleanliness, "run", RecycleOptions(keep=1.0, min_gain=2.0))(DOCUMENTS)
    assert found.numbers == [2, 3]


def test_the_best_are_kept_and_of_equal_ones_the_lower_number() -> None:
    assert Recycle(CLEANER, cleanliness, "run", RecycleOptions(keep=0.5))(DOCUMENTS).numbers == [0, 1]
    by_length = Recycle(CLEANER, lambda text: len(text.replace("#", "")), "run", RecycleOptions(keep=0.5))(DOCUMENTS)
    assert by_length.numbers == [1, 2]


def test_a_rewrite_without_the_facts_is_thrown_away() -> None:
    texts = ["In 1996 Anna saw 12.5 litres at the river Rhine.", "all lower case and no number"]
    liar = Rule(lambda ask, _: "Improved document: In 1997 Anna saw some.", "liar")
    assert fact_overlap(texts[0], "Then Anna saw 12.5 litres") == 2 / 4
    assert Recycle(liar, len, "run", RecycleOptions(keep=1.0, min_gain=-100))(texts).numbers == [1]


def test_facts_are_numbers_and_names_within_sentences() -> None:
    assert facts("The cat. Then Bob paid 1,200.50 at 10:30! Now Carol") == {"Bob", "1,200.50", "10:30", "Carol"}
    assert facts("") == set()
    assert fact_overlap("nothing", "") == 1.0


@given(texts=st.lists(st.text(alphabet="ab# ", max_size=6), min_size=1, max_size=8), keep=st.sampled_from([0.1, 0.5, 1.0]))
def test_every_document_is_traced(texts: list[str], keep: float) -> None:
    found = Recycle(CLEANER, cleanliness, "run", RecycleOptions(keep=keep))(texts)
    assert traced(found, texts)
    assert [each.kept for each in found.provenance] == [number in found.numbers for number in range(len(texts))]
    assert len(found.kept) <= round(keep * len(texts))
    assert all(each.source == sha256(text) for each, text in zip(found.provenance, texts, strict=True))
    assert not traced(found, [*texts, "one more"])


@pytest.mark.parametrize(
    "options", [{"keep": 0.0}, {"keep": 1.5}, {"overlap": -0.1}, {"prompt": "nothing"}, {"prompt": PROMPT, "overlap": 2.0}]
)
def test_bad_options_are_named(options: dict) -> None:
    with pytest.raises(TrainingError, match=r"keep|overlap|document"):
        RecycleOptions(**options)
