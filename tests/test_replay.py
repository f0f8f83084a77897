"""Replay: what follows from seed and records is made again, and whatever was changed is named where it first shows."""

import json
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zkaudit_process import assert_refused, zkaudit

from zkaudit.cli import main
from zkaudit.training.batch.uds import top
from zkaudit.training.batch.uniform import UniformSampler
from zkaudit.training.errors import TrainingError
from zkaudit.training.mixture.phases import Phase, PhasePlan
from zkaudit.training.replay import RULES, Difference, replay, view_seeds
from zkaudit.training.step_file import NAME, StepFile, StepWriter
from zkaudit.training.steps import RunHeader, StepRecord, derive_seed
from zkaudit.zk.sampling import batch_rows

ROWS, STEPS = 24, 9
RULE = {"uniform": {"batch": 5}}


def uniform_run(folder: Path, seed: str = "a", change: Callable[[StepRecord], StepRecord] = lambda record: record) -> str:
    """A run whose records went through `change` before they were chained: the forger's best effort."""
    sampler = UniformSampler(ROWS, 5, run_seed="a", steps=STEPS)
    with StepWriter(folder, seed, ROWS, RULE) as writer:
        for step in range(STEPS):
            seed_of_views = view_seeds("a", step, 5)
            record = StepRecord(
                step, learning_rate=0.5, objective_id="ul2", objective_seed=derive_seed("a", "objective.ul2", step),
                view_seeds=seed_of_views, **sampler.fields(step),
            )  # fmt: skip
            writer.write(change(record))
        return writer.head


def changed(step: int, **fields: Any) -> Callable[[StepRecord], StepRecord]:
    return lambda record: StepRecord(**vars(record) | fields) if record.step == step else record


def difference(folder: Path, **published: str) -> Difference:
    found = replay(folder, **published).difference
    assert found is not None
    return found


def test_uniform_batches_are_those_of_a_proved_run(tmp_path: Path) -> None:
    head = uniform_run(tmp_path)
    seed = derive_seed("a", "sampler", 0).to_bytes(8, "little")
    ids = [list(record.ids) for record in StepFile(tmp_path).records()]
    assert ids == batch_rows(seed, ROWS, 5, 0, STEPS).tolist()
    done = replay(tmp_path, seed="a", head=head)
    assert (done.difference, done.steps, done.head) == (None, STEPS, head)
    assert set(done.recomputed) == {"ids", "epoch", "objective_seed", "view_seeds"}
    assert done.declared == ("learning_rate", "objective_id")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (dict(ids=(0, 1, 2, 3, 4)), "ids"),
        (dict(epoch=7), "epoch"),
        (dict(objective_seed=1), "objective_seed"),
        (dict(view_seeds=(1, 2, 3, 4, 5)), "view_seeds"),
        (dict(selector="uds"), "selector"),
        (dict(candidate_ids=tuple(range(ROWS))), "candidate_ids"),
    ],
)
def test_one_changed_choice_is_named_though_the_chain_was_made_anew(tmp_path: Path, fields: dict[str, Any], field: str) -> None:
    uniform_run(tmp_path, change=changed(6, **fields))
    found = difference(tmp_path)
    assert (found.step, found.line, found.field) == (6, 8, field)
    assert found.found == fields[field]


def test_one_id_exchanged_for_another_is_named(tmp_path: Path) -> None:
    def exchange(record: StepRecord) -> StepRecord:
        other = next(row for row in range(ROWS) if row not in record.ids)
        return changed(4, ids=(*record.ids[:2], other, *record.ids[3:]))(record)

    uniform_run(tmp_path, change=exchange)
    assert (difference(tmp_path).step, difference(tmp_path).field) == (4, "ids")


def test_ids_in_another_order_are_a_difference(tmp_path: Path) -> None:
    uniform_run(tmp_path, change=lambda record: changed(2, ids=record.ids[::-1])(record))
    assert (difference(tmp_path).step, difference(tmp_path).field) == (2, "ids")


def swap(lines: list[bytes]) -> None:
    lines[3], lines[4] = lines[4], lines[3]


def swap_and_renumber(lines: list[bytes]) -> None:
    swap(lines)
    lines[3] = lines[3].replace(b'"step":3', b'"step":2')
    lines[4] = lines[4].replace(b'"step":2', b'"step":3')


def edit(lines: list[bytes]) -> None:
    lines[3] = lines[3].replace(b'"learning_rate":0.5', b'"learning_rate":0.25')


def break_link(lines: list[bytes]) -> None:
    link = json.loads(lines[5])["prev_hash"].encode()
    lines[5] = lines[5].replace(link, link[::-1])


def drop(lines: list[bytes]) -> None:
    del lines[2]


@pytest.mark.parametrize(
    ("tamper", "step", "field"),
    [
        (swap, 3, "step"),
        (swap_and_renumber, 2, "prev_hash"),
        (edit, 3, "prev_hash"),
        (break_link, 4, "prev_hash"),
        (drop, 2, "step"),
    ],
)
def test_a_tampered_file_breaks_the_chain(tmp_path: Path, tamper: Callable[[list[bytes]], None], step: int, field: str) -> None:
    """Also where the change is in a field that no rule decides."""
    uniform_run(tmp_path)
    path = tmp_path / NAME
    lines = path.read_bytes().splitlines(keepends=True)
    tamper(lines)
    path.write_bytes(b"".join(lines))
    found = difference(tmp_path)
    assert (found.step, found.field, found.by) == (step, field, "the chain")


def test_records_missing_at_the_end_show_in_the_head_alone(tmp_path: Path) -> None:
    head = uniform_run(tmp_path)
    path = tmp_path / NAME
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    assert replay(tmp_path).difference is None
    assert difference(tmp_path, head=head).field == "head"


def test_a_seed_tried_until_the_batches_please_is_not_the_published_one(tmp_path: Path) -> None:
    """A run made consistently from a seed of one's own choice replays; the seed that was published tells it apart."""
    sampler = UniformSampler(ROWS, 5, run_seed="a-17", steps=STEPS)
    with StepWriter(tmp_path, "a-17", ROWS, RULE) as writer:
        for step in range(STEPS):
            writer.write(StepRecord(step, **sampler.fields(step)))
    assert replay(tmp_path).difference is None
    found = difference(tmp_path, seed="a")
    assert (found.field, found.expected, found.found) == ("run_seed", "a", "a-17")


def test_another_seed_in_the_header_gives_other_rows(tmp_path: Path) -> None:
    uniform_run(tmp_path, seed="b")
    assert difference(tmp_path).step == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_bit_of_a_record_can_be_flipped(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    """Refused as no record, or a difference; given the head, wherever it is."""
    folder = tmp_path_factory.mktemp("run")
    head = uniform_run(folder)
    path = folder / NAME
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)
    assert caught(folder, head)


def caught(folder: Path, head: str) -> bool:
    try:
        return replay(folder, head=head).difference is not None
    except TrainingError:
        return True


def selected_run(folder: Path, change: Callable[[StepRecord], StepRecord] = lambda record: record) -> None:
    """A uniform sampler's batches as candidates, of which two are kept by score."""
    sampler = UniformSampler(ROWS, 5, run_seed="a", steps=STEPS)
    generator = np.random.default_rng(0)
    with StepWriter(folder, "a", ROWS, RULE | {"uds": {"keep": 2}}, selector="uds") as writer:
        for step in range(STEPS):
            fields = sampler.fields(step)
            candidates, scores = fields["ids"], tuple((int(score),) for score in generator.integers(0, 3, 5))
            ids = tuple(candidates[place] for place in top(scores, candidates, 2))
            record = StepRecord(step, ids, fields["epoch"], candidates, scores=scores, selector="uds")
            writer.write(change(record))


def test_a_sampler_s_rows_are_the_selector_s_candidates(tmp_path: Path) -> None:
    selected_run(tmp_path)
    done = replay(tmp_path)
    assert done.difference is None
    assert set(done.recomputed) == {"candidate_ids", "ids", "epoch", "selector"}
    assert done.declared == ("scores",)


def other_choice(record: StepRecord) -> StepRecord:
    return changed(3, ids=record.candidate_ids[:2][::-1])(record)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (other_choice, "ids"),
        (changed(3, weights=(1.0, 2.0)), "weights"),
        (changed(3, scores=()), "scores"),
        (changed(3, scores=((1,),) * 4), "scores"),
        (changed(3, scores=((1, 2),) * 5), "scores"),
        (changed(3, candidate_ids=()), "candidate_ids"),
        (
            lambda record: changed(3, candidate_ids=(*record.candidate_ids, record.ids[0]), scores=((1,),) * 6)(record),
            "candidate_ids",
        ),
    ],
)
def test_a_selection_other_than_its_scores_give_is_named(
    tmp_path: Path, change: Callable[[StepRecord], StepRecord], field: str
) -> None:
    selected_run(tmp_path, change)
    found = difference(tmp_path)
    assert (found.step, found.field) == (3, field)


def test_a_selector_without_a_rule_is_taken_at_its_word(tmp_path: Path) -> None:
    with StepWriter(tmp_path, "a", ROWS, RULE, selector="mine") as writer:
        fields = UniformSampler(ROWS, 5, run_seed="a", steps=1).fields(0)
        writer.write(StepRecord(0, fields["ids"][:1], 0, fields["ids"], selector="mine"))
    done = replay(tmp_path)
    assert done.difference is None
    assert "ids" in done.declared
    assert "candidate_ids" in done.recomputed


def test_a_phase_plan_is_replayed(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2] * 8)
    plan = PhasePlan([str(label) for label in labels], [Phase(("0", "2"), 2), Phase(None, 1)], 5, "a")
    rules = {"sft-phases": {"batch": 5, "phases": [[[0, 2], 2], [None, 1]]}}
    with StepWriter(tmp_path, "a", ROWS, rules, columns={"label": labels}) as writer:
        for number in range(plan.steps):
            writer.write(StepRecord(number, plan.step(number).ids, plan.step(number).epoch))
        done = replay(tmp_path)
        assert (done.difference, done.recomputed) == (None, ("epoch", "ids"))
        writer.write(StepRecord(plan.steps, (0,)))
    assert difference(tmp_path).field == "step"


@pytest.mark.parametrize(
    ("rules", "options", "sentence"),
    [
        ({"unknown": {}}, {}, "a rule 'unknown'; known are"),
        ({"uniform": {"batch": 99}}, {}, "batch = 99 cannot be drawn"),
        ({"uniform": {"batsh": 9}}, {}, "unexpected keyword argument 'batsh'"),
        ({"uniform": {"batch": "5"}}, {}, "rule 'uniform' cannot be made"),
        ({"view-batch": {"batch": 4, "views": 4.0}}, {}, "views is 4.0"),
        ({"length-buckets": {"tokens": 4, "odds": [1], "cycles": 1}}, {}, "no column 'length'"),
        ({"uniform": {"batch": 2}, "view-batch": {"batch": 2, "views": 1}}, {}, "samplers uniform and view-batch"),
        ({"uds": {"keep": 1}}, {}, "its selector is ''"),
        ({"uds": {"keep": 1}}, {"selector": "colm"}, "its selector is 'colm'"),
    ],
)
def test_rules_that_cannot_be_followed_are_named(
    tmp_path: Path, rules: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    StepWriter(tmp_path, "a", ROWS, rules, **options).close()
    with pytest.raises(TrainingError, match=sentence):
        replay(tmp_path)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_module_and_is_explained(name: str) -> None:
    assert callable(import_module(f"zkaudit.training.{RULES[name]}").rule)
    document = (Path(__file__).parents[1] / "docs" / "step-records.md").read_text(encoding="utf-8")
    assert f"\n| `{name}` |" in document


def test_every_field_of_a_record_is_explained() -> None:
    document = (Path(__file__).parents[1] / "docs" / "step-records.md").read_text(encoding="utf-8")
    missing = [field.name for field in (*fields(StepRecord), *fields(RunHeader)) if f"`{field.name}`" not in document]
    assert missing == []


def test_the_command_says_what_was_recomputed_and_what_was_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = uniform_run(tmp_path)
    assert main(["replay", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("REPLAYED: 9 steps as recorded")
    assert "learning_rate" in printed
    assert 'uniform {"batch": 5}' in printed
    assert printed.count("not shown") == 2
    assert main(["replay", str(tmp_path), "--seed", "a", "--head", head]) == 0
    assert "not shown" not in capsys.readouterr().out
    assert main(["replay", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["head"] == head


def test_without_rules_nothing_is_recomputed_and_the_command_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with StepWriter(tmp_path, "a", ROWS) as writer:
        writer.write(StepRecord(0, (1, 2)))
    assert replay(tmp_path).recomputed == ()
    assert main(["replay", str(tmp_path), "--seed", "a"]) == 0
    printed = capsys.readouterr().out
    assert "how the rows of a step were chosen" in printed
    assert printed.count("not shown") == 2


def test_the_command_ends_in_1_where_something_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uniform_run(tmp_path, change=changed(6, epoch=7))
    assert main(["replay", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "DIFFERS: step 6 (line 8): epoch is 7; by rule uniform it should be 1\n"
    assert main(["replay", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["difference"]["field"] == "epoch"


def test_the_command_ends_in_2_where_there_are_no_records(tmp_path: Path) -> None:
    assert_refused(zkaudit("replay", tmp_path), "cannot read", NAME)
    uniform_run(tmp_path)
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes() + b"{}\n")
    assert_refused(zkaudit("replay", tmp_path), "line 11")
