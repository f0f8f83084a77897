"""Rows drawn for a mixture: shares as asked, every row of a source once a pass, and batches that replay has again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from zkaudit.training.errors import TrainingError
from zkaudit.training.mixture.sampler import MixtureSampler, SourceRows, rule
from zkaudit.training.mixture.skill_it import SkillIt
from zkaudit.training.replay import Lacking, Run
from zkaudit.training.steps import RunHeader, StepRecord

LABELS = ["0"] * 5 + ["1"] * 8 + ["2"] * 3


@given(st.lists(st.dictionaries(st.sampled_from("012"), st.floats(0.1, 1), min_size=1), min_size=1, max_size=30))
def test_no_row_comes_twice_before_all_of_its_source_have_come(mixtures: list[dict[str, float]]) -> None:
    rows, seen = SourceRows(LABELS, "7"), Counter[int]()
    for step, mixture in enumerate(mixtures):
        ids = rows.next(mixture, 4, step)
        assert {LABELS[i] for i in ids} <= set(mixture)
        seen.update(ids)
    for source in "012":
        counts = [seen[i] for i, label in enumerate(LABELS) if label == source]
        assert max(counts) - min(counts) <= 1


def test_batches_follow_the_shares() -> None:
    sampler = MixtureSampler(LABELS, lambda: {"0": 0.5, "1": 0.2, "2": 0.3}, 10, run_seed="7", steps=200)
    counts = Counter(LABELS[i] for ids in sampler for i in ids)
    assert chisquare([counts[source] for source in "012"], [1000, 400, 600]).pvalue > 0.01


def test_a_changed_mixture_counts_from_the_next_step_on() -> None:
    shares = {"0": 1.0, "1": 0.0}
    sampler = MixtureSampler(LABELS, lambda: shares, 6, run_seed="7", steps=2)
    batches = iter(sampler)
    assert {LABELS[i] for i in next(batches)} == {"0"}
    shares |= {"0": 0.0, "1": 1.0}
    assert {LABELS[i] for i in next(batches)} == {"1"}
    assert sampler.last["mixture"] == {"0": 0.0, "1": 1.0}


def test_a_loaded_sampler_goes_on_where_the_saved_one_stood() -> None:
    def sampler(seed: str = "7") -> MixtureSampler:
        return MixtureSampler(LABELS, lambda: {"0": 0.5, "1": 0.25, "2": 0.25}, 4, run_seed=seed, steps=12)

    whole, first, second = list(sampler()), sampler(), sampler()
    begun = iter(first)
    half = [next(begun) for _ in range(5)]
    second.load_state_dict(first.state_dict())
    assert half + list(DataLoader(range(16), batch_sampler=second, collate_fn=list)) == whole
    with pytest.raises(TrainingError, match="another run seed"):
        sampler("8").load_state_dict(first.state_dict())


def recorded(steps: int = 9) -> tuple[RunHeader, list[StepRecord]]:
    """A run with Skill-it's shares, three rounds."""
    mixer = SkillIt([[1, 1, 0], [0, 1, 1], [0, 0, 1]])
    sampler, records = (
        MixtureSampler(LABELS, lambda: dict(zip("012", mixer.mixture, strict=True)), 4, run_seed="7", steps=steps),
        [],
    )
    for step, _ in enumerate(sampler):
        records.append(StepRecord(**sampler.last))
        mixer.observe([1.0 / (step + 1), 1.0, 2.0])
        if step % 3 == 2:
            mixer.next_round()
    return RunHeader("7", len(LABELS), {"mixture": {"batch": 4}}, {"source": "a"}), records


def expected(header: RunHeader, records: list[StepRecord]) -> list[tuple[int, ...]]:
    made = rule(Run(header, {"source": np.array([int(label) for label in LABELS])}), header.rules["mixture"])
    found = []
    for record in records:
        found.append(made.expected(record)["ids"])
        made.after(record)
    return found


def test_the_rule_has_every_batch_again_from_seed_labels_and_shares() -> None:
    header, records = recorded()
    assert expected(header, records) == [record.ids for record in records]
    other = RunHeader("8", header.rows, header.rules, header.columns)
    assert expected(other, records)[0] != records[0].ids


def test_shares_that_were_not_drawn_with_are_found() -> None:
    header, records = recorded()
    changed = StepRecord(4, records[4].ids, mixture={"0": 0.0, "1": 0.0, "2": 1.0})
    assert expected(header, [*records[:4], changed])[4] != records[4].ids
    with pytest.raises(Lacking, match="the share of each source"):
        expected(header, [StepRecord(0, records[0].ids)])
    with pytest.raises(Lacking, match="unlike 'law'"):
        expected(header, [StepRecord(0, records[0].ids, mixture={"law": 1.0})])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SourceRows(LABELS, "7").next({"law": 1.0}, 2, 0), "source 'law', which no row has; there are 0, 1, 2"),
        (lambda: SourceRows(LABELS, "7").next({"0": 0.0}, 2, 0), "one must be above 0"),
        (lambda: MixtureSampler(LABELS, dict, 0, run_seed="7", steps=1), "batch = 0"),
        (lambda: MixtureSampler([], dict, 1, run_seed="7", steps=1), "the 0 labels"),
        (lambda: rule(Run(RunHeader("7", 3), {}), {"batch": 2}), "no column 'source'"),
        (lambda: rule(Run(RunHeader("7", 3), {"source": np.arange(3)}), {"batch": "2"}), "cannot be made from its options"),
        (lambda: rule(Run(RunHeader("7", 3), {"source": np.arange(3)}), {"size": 2}), "cannot be made from its options"),
    ],
)
def test_bad_input_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
