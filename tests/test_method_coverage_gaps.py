"""Coverage gaps: what is missing is counted, asked for, and checked on every attribute."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.coverage import Gap, Taxonomy, fill, gaps, satisfied
from zkaudit.training.generation.generator import Ask, Rule

COLOURS, SHAPES = ("red", "blue"), ("disc", "square", "ring")
Thing = tuple[str, str]
TAXONOMY: Taxonomy[Thing] = Taxonomy({"colour": (lambda t: t[0], COLOURS), "shape": (lambda t: t[1], SHAPES)})
THINGS = st.lists(st.tuples(st.sampled_from([*COLOURS, "green"]), st.sampled_from(SHAPES)), max_size=20)


def describe(values: dict[str, str]) -> str:
    return f"{values['colour']} {values['shape']}"


def parse(text: str) -> Thing | None:
    parts = text.split()
    return (parts[0], parts[1]) if len(parts) == 2 else None


OBEDIENT = Rule(lambda ask, _: ask.prompt, "obedient")


@given(things=THINGS, quota=st.integers(1, 5))
def test_after_filling_no_cell_is_below_the_quota_and_none_that_was_full_has_changed(things: list[Thing], quota: int) -> None:
    missing = gaps(things, TAXONOMY, quota)
    filled = fill(missing, TAXONOMY, OBEDIENT, describe, parse, "run")
    before, after = Counter(things), Counter(things + filled.records)
    for cell in TAXONOMY.cells():
        assert after[cell] == max(before[cell], quota)
    assert filled.left == []
    assert gaps(things + filled.records, TAXONOMY, quota) == []
    assert len(filled.provenance) == len(filled.records) == sum(gap.need for gap in missing)


def test_gaps_are_in_the_taxonomys_order_and_what_is_outside_counts_nowhere() -> None:
    things = [("red", "disc")] * 2 + [("green", "disc")] * 9 + [("blue", "ring")]
    assert gaps(things, TAXONOMY, 2) == [
        Gap(("red", "square"), 0, 2), Gap(("red", "ring"), 0, 2), Gap(("blue", "disc"), 0, 2),
        Gap(("blue", "square"), 0, 2), Gap(("blue", "ring"), 1, 1),
    ]  # fmt: skip


def test_the_right_shape_in_the_wrong_colour_is_wrong() -> None:
    red = Rule(lambda ask, _: f"red {ask.prompt.split()[1]}", "only red")
    filled = fill(gaps([], TAXONOMY, 1), TAXONOMY, red, describe, parse, "run")
    assert {thing[0] for thing in filled.records} == {"red"}
    assert filled.left == [Gap(("blue", shape), 0, 1) for shape in SHAPES]
    assert not satisfied(("red", "disc"), TAXONOMY, ("blue", "disc"))


def test_failures_are_asked_for_again_with_new_seeds_and_the_rounds_end() -> None:
    asks: list[Ask] = []

    def sometimes(ask: Ask, draws: random.Random) -> str:
        asks.append(ask)
        return ask.prompt if draws.random() < 0.5 else "no record of three words"

    filled = fill(gaps([], TAXONOMY, 10), TAXONOMY, Rule(sometimes, "half"), describe, parse, "run", rounds=4)
    assert len({ask.seed for ask in asks}) == len(asks) == len(filled.provenance)
    assert sum(each.kept for each in filled.provenance) == len(filled.records)
    assert len(filled.records) + sum(gap.need for gap in filled.left) == 60
    assert len(filled.records) > 45
    none = fill(gaps([], TAXONOMY, 2), TAXONOMY, Rule(lambda a, _: "", "none"), describe, parse, "run", rounds=4)
    assert none.records == []
    assert len(none.provenance) == 4 * 12
    assert none.left == gaps([], TAXONOMY, 2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Taxonomy({}), "at least one attribute"),
        (lambda: Taxonomy({"a": (str, ("x", "x"))}), "attribute 'a' needs values"),
        (lambda: gaps([], TAXONOMY, 0), "quota = 0"),
        (lambda: fill([], TAXONOMY, OBEDIENT, describe, parse, "run", rounds=0), "rounds = 0"),
    ],
)
def test_what_cannot_be_used_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
