"""Step records of the plain loop: they replay, a swapped record is found, and a run goes on where it stopped."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from zkaudit.training.batch.hard_batch import HardBatchSampler
from zkaudit.training.batch.sampler import RecordedSampler
from zkaudit.training.batch.uniform import UniformSampler
from zkaudit.training.errors import TrainingError
from zkaudit.training.loop import Records, train
from zkaudit.training.mixture.sampler import MixtureSampler
from zkaudit.training.replay import replay
from zkaudit.training.step_file import StepFile, StepWriter

ROWS, BATCH, STEPS = 20, 4, 7
RULE = {"uniform": {"batch": BATCH}}
DATA = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(5))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(3, 1)


def squares(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model.map(batch["x"]).square().mean()


def uniform(steps: int = STEPS) -> UniformSampler:
    return UniformSampler(ROWS, BATCH, run_seed="7", steps=steps)


def drawn(sampler: RecordedSampler | MixtureSampler) -> Iterator[dict[str, Tensor]]:
    return ({"x": DATA[ids]} for ids in sampler)


def written(folder: Path) -> list[float]:
    """A whole run, with a rate that halves at each step; returns its losses."""
    model, sampler = Linear(), uniform()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with StepWriter(folder, "7", ROWS, RULE) as writer:
        records = Records(writer, sampler.fields, objective="squares")
        return train(model, drawn(sampler), optimizer, StepLR(optimizer, 1, 0.5), loss=squares, records=records)


def test_a_run_replays_and_its_records_say_what_the_loop_did(tmp_path: Path) -> None:
    losses = written(tmp_path)
    done = replay(tmp_path, seed="7")
    assert (done.difference, done.steps) == (None, STEPS)
    assert set(done.recomputed) == {"ids", "epoch"}
    records = list(StepFile(tmp_path).records())
    assert [record.learning_rate for record in records] == [0.5**step for step in range(1, STEPS + 1)]
    assert {record.objective_id for record in records} == {"squares"}
    model = Linear()  # the recorded rows and rates alone give the losses again
    for record, loss in zip(records, losses, strict=True):
        value = squares(model, {"x": DATA[list(record.ids)]})
        assert float(value.detach()) == loss
        for parameter, gradient in zip(model.parameters(), torch.autograd.grad(value, list(model.parameters())), strict=True):
            parameter.data -= record.learning_rate * gradient


def test_records_change_no_training(tmp_path: Path) -> None:
    model = Linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    assert written(tmp_path) == train(model, drawn(uniform()), optimizer, StepLR(optimizer, 1, 0.5), loss=squares)


def test_swapped_records_are_found_though_the_chain_was_made_anew(tmp_path: Path) -> None:
    written(tmp_path / "true")
    records = list(StepFile(tmp_path / "true").records())
    records[2], records[3] = replace(records[2], ids=records[3].ids), replace(records[3], ids=records[2].ids)
    with StepWriter(tmp_path / "swapped", "7", ROWS, RULE) as writer:
        for record in records:
            writer.write(record)
    found = replay(tmp_path / "swapped").difference
    assert found is not None
    assert (found.step, found.field, found.found) == (2, "ids", records[2].ids)
    path = tmp_path / "true" / "steps.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[4], lines[3], *lines[5:]]))
    found = replay(tmp_path / "true").difference
    assert found is not None
    assert (found.line, found.by) == (4, "the chain")


@pytest.mark.parametrize("checkpoint", [None, 2])
def test_a_stopped_run_goes_on_to_the_same_head(tmp_path: Path, checkpoint: int | None) -> None:
    """Without a checkpoint's step it goes on after the last record."""
    written(tmp_path / "whole")
    model, sampler, saved = Linear(), uniform(), dict[int, Any]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = StepLR(optimizer, 1, 0.5)
    parts = (model, optimizer, scheduler, sampler)

    def save(step: int, loss: float) -> None:
        if checkpoint in (None, step):
            saved.update(enumerate(copy.deepcopy([part.state_dict() for part in parts])))

    def stopped() -> Iterator[dict[str, Tensor]]:
        for number, batch in enumerate(drawn(sampler)):
            if number == 4:
                raise KeyboardInterrupt
            yield batch

    with StepWriter(tmp_path / "run", "7", ROWS, RULE) as writer, pytest.raises(KeyboardInterrupt):
        train(
            model,
            stopped(),
            optimizer,
            scheduler,
            loss=squares,
            records=Records(writer, sampler.fields, "squares"),
            progress=save,
        )
    for index, part in enumerate(parts):
        part.load_state_dict(saved[index])
    with StepWriter(tmp_path / "run", "7", ROWS, RULE, at=checkpoint) as writer:
        assert writer.step == (checkpoint or 4) == sampler.step
        train(model, drawn(sampler), optimizer, scheduler, loss=squares, records=Records(writer, sampler.fields, "squares"))
    assert (tmp_path / "run" / "steps.jsonl").read_bytes() == (tmp_path / "whole" / "steps.jsonl").read_bytes()


def test_batches_that_depend_on_losses_replay(tmp_path: Path) -> None:
    sampler, model, seen = HardBatchSampler(ROWS, BATCH, epochs=4, run_seed="7"), Linear(), list[Tensor]()
    rule = {"hard-batch": dict(batch=BATCH, epochs=4, delta=0.5, granularity="batch", refresh=True, shuffle=True)}

    def kept(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        seen.append(squares(model, batch))
        return seen[-1]

    with StepWriter(tmp_path, "7", ROWS, rule) as writer:
        records = Records(writer, lambda step: sampler.fields(step) | {"scores": sampler.report(seen[-1])})
        train(model, drawn(sampler), torch.optim.SGD(model.parameters(), lr=0.1), loss=kept, records=records)
    done = replay(tmp_path)
    assert (done.difference, done.steps) == (None, len(seen))
    assert max(record.epoch for record in StepFile(tmp_path).records()) > 0


def test_shares_of_a_mixture_are_written_and_its_rows_replay(tmp_path: Path) -> None:
    sources = [row % 2 for row in range(ROWS)]
    model = Linear()
    sampler = MixtureSampler([str(s) for s in sources], lambda: {"0": 0.75, "1": 0.25}, BATCH, run_seed="7", steps=STEPS)
    with StepWriter(
        tmp_path, "7", ROWS, {"mixture": {"batch": BATCH}}, columns={"source": torch.tensor(sources).numpy()}
    ) as writer:
        records = Records(writer, lambda step: sampler.last)
        train(model, drawn(sampler), torch.optim.SGD(model.parameters(), lr=0.1), loss=squares, records=records)
    assert replay(tmp_path).difference is None
    assert [record.mixture for record in StepFile(tmp_path).records()] == [{"0": 0.75, "1": 0.25}] * STEPS


def test_an_update_of_several_batches_is_one_record_with_its_length_and_tokens(tmp_path: Path) -> None:
    sampler, model = uniform(steps=2), Linear()

    def halves() -> Iterator[dict[str, Tensor]]:
        for ids in sampler:
            for part, length in ((ids[:2], 5), (ids[2:], 6)):
                mask = torch.ones(2, length, dtype=torch.int64)
                mask[0, -1] = 0
                yield {"x": DATA[part], "input_ids": torch.zeros_like(mask), "attention_mask": mask}

    with StepWriter(tmp_path, "7", ROWS, RULE) as writer:
        records = Records(writer, sampler.fields)
        train(model, halves(), torch.optim.SGD(model.parameters(), lr=0.1), loss=squares, accumulation=2, records=records)
    assert replay(tmp_path).difference is None
    assert [(record.seq_len, record.n_tokens) for record in StepFile(tmp_path).records()] == [(6, 20)] * 2


def test_records_that_are_not_of_the_batches_are_refused(tmp_path: Path) -> None:
    model, sampler = Linear(), uniform()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        StepWriter(tmp_path / "a", "7", ROWS, RULE) as writer,
        pytest.raises(TrainingError, match=r"step 0 have 8 rows.* of 4"),
    ):
        train(model, drawn(sampler), optimizer, loss=squares, accumulation=2, records=Records(writer, sampler.fields))
    ahead = {"step": 3, "ids": (0, 1, 2, 3)}
    with StepWriter(tmp_path / "b", "7", ROWS) as writer, pytest.raises(TrainingError, match="are of step 3: use no loader"):
        train(model, drawn(uniform()), optimizer, loss=squares, records=Records(writer, lambda step: ahead))
    assert [len(list(StepFile(tmp_path / name).records())) for name in "ab"] == [0, 0]


@pytest.mark.parametrize(
    "fields",
    [
        {"ids": (3, 5, 8, 1), "bins": (0, 1, 1, 0)},
        {"ids": (3, 5), "candidate_ids": (5, 3)},
        {"ids": (3,), "candidate_ids": (5, 3), "selector": "mine"},
    ],
)
def test_rows_are_counted_as_packed_or_as_chosen_or_as_candidates(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = Linear()
    with StepWriter(tmp_path, "7", ROWS, selector=fields.get("selector", "")) as writer:
        train(
            model, [{"x": DATA[:2]}], torch.optim.SGD(model.parameters(), lr=0.1), loss=squares,
            records=Records(writer, lambda step: fields),
        )  # fmt: skip
    (record,) = StepFile(tmp_path).records()
    assert {name: getattr(record, name) for name in fields} == fields
