"""Multigrid: shapes and rates of the long and the short cycle, every step at the same cost."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from zkaudit.training.batch.multigrid import Key, Multigrid, MultigridOptions, MultigridSampler, Shape, Shaped
from zkaudit.training.errors import TrainingError

VIDEO = MultigridOptions(batch=8, length=32, size=224)


def test_the_long_cycle_for_video_is_the_papers() -> None:
    plan = Multigrid(MultigridOptions(batch=8, length=32, size=224, short=(), last=0.2), 100_000)
    shapes = [phase.shapes for phase in plan.phases]
    assert shapes == [((64, 8, 158),), ((32, 16, 158),), ((16, 16, 224),), ((8, 32, 224),), ((8, 32, 224),)]
    assert [phase.lr for phase in plan.phases] == [8.0, 4.0, 2.0, 1.0, 1.0]
    assert len({phase.steps for phase in plan.phases[:4]}) == 1


def test_the_short_cycle_takes_turns_and_leaves_the_rate_alone() -> None:
    plan = Multigrid(VIDEO, 100_000)
    sizes = [plan.shape(step).size for step in range(6)]
    assert sizes == [112, 158, 158, 112, 158, 158]
    third = sum(phase.steps for phase in plan.phases[:2])
    assert [plan.shape(third + step) for step in range(3)] == [(64, 16, 112), (32, 16, 158), (16, 16, 224)]
    assert {plan.lr_factor(third + step) for step in range(3)} == {2.0}


def test_the_last_part_has_the_full_shape_alone() -> None:
    plan = Multigrid(VIDEO, 100_000)
    assert plan.phases[-1].shapes == (Shape(8, 32, 224),)
    assert plan.phases[-1].steps == pytest.approx(0.2 * plan.steps, abs=2)
    assert plan.shape(plan.steps + 5) == plan.shape(plan.steps - 1)


@given(
    batch=st.integers(4, 64),
    length=st.none() | st.integers(16, 512),
    size=st.integers(16, 256),
    multiple=st.sampled_from([1, 4]),
    cycles=st.integers(1, 3),
)
def test_every_step_costs_what_a_full_one_costs(batch: int, length: int | None, size: int, multiple: int, cycles: int) -> None:
    options = MultigridOptions(batch, length, size, multiple=multiple, cycles=cycles)
    plan = Multigrid(options, samples=10_000 * batch)
    full = batch * (length or 1) * size**2
    for shape in {shape for phase in plan.phases for shape in phase.shapes}:
        assert shape.batch * (shape.length or 1) * shape.size**2 == pytest.approx(full, rel=0.6 / shape.batch)
        assert shape.size % multiple == 0
    assert plan.samples_before(plan.steps) == pytest.approx(10_000 * batch, rel=0.02)


@given(cycles=st.integers(1, 3), last=st.sampled_from([0.0, 0.2, 0.5]))
def test_each_rate_of_a_schedule_has_a_whole_long_cycle(cycles: int, last: float) -> None:
    plan = Multigrid(MultigridOptions(8, size=32, cycles=cycles, last=last), 50_000)
    rates = [phase.lr for phase in plan.phases]
    assert rates == rates[:2] * cycles + [1.0] * bool(last)


def test_sequences_have_a_length_alone() -> None:
    plan = Multigrid(MultigridOptions(batch=4, length=128, power=0.5), 10_000)
    assert [phase.shapes for phase in plan.phases] == [
        ((16, 32, None),),
        ((8, 64, None),),
        ((4, 128, None),),
        ((4, 128, None),),
    ]
    assert [phase.lr for phase in plan.phases] == pytest.approx([2.0, 2**0.5, 1.0, 1.0])


def test_the_sampler_goes_through_all_items_before_it_repeats_one() -> None:
    keys = list(itertools.chain.from_iterable(MultigridSampler(Multigrid(MultigridOptions(3, size=8), 60), 20)))
    assert sorted(key.item for key in keys[:20]) == list(range(20))
    assert sorted(key.item for key in keys[20:40]) == list(range(20))
    assert [key.item for key in keys[:20]] != [key.item for key in keys[20:40]]


@given(stop=st.integers(0, 40), items=st.integers(1, 50), seed=st.integers(0, 9))
def test_a_sampler_from_a_saved_state_goes_on_with_the_same_batches(stop: int, items: int, seed: int) -> None:
    plan = Multigrid(MultigridOptions(4, length=16, size=8), 600)
    straight = list(MultigridSampler(plan, items, seed))
    before, resumed = MultigridSampler(plan, items, seed), MultigridSampler(plan, items)
    first = list(itertools.islice(before, stop))
    resumed.load_state_dict(before.state_dict())
    assert len(resumed) == plan.steps - len(first)
    assert first + list(resumed) == straight


def test_a_loader_yields_batches_in_their_shapes_and_the_rate_follows() -> None:
    images = torch.arange(40.0).reshape(40, 1, 1, 1).expand(40, 1, 8, 8)
    plan = Multigrid(MultigridOptions(4, size=8), 300)
    loader = DataLoader(
        Shaped(images, lambda image, shape: image[:, : shape.size, : shape.size]), batch_sampler=MultigridSampler(plan, 40)
    )
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.lr_factor)
    for step, batch in enumerate(loader):
        shape = plan.shape(step)
        assert batch.shape == (shape.batch, 1, shape.size, shape.size)
        assert scheduler.get_last_lr() == [pytest.approx(0.1 * plan.lr_factor(step))]
        optimizer.step()
        scheduler.step()
    assert step + 1 == plan.steps


class Windows(Trainer):
    """A language model's trainer, over windows whose length is the plan's."""

    def get_train_dataloader(self) -> DataLoader:
        plan, rows = self.args.plan, self.train_dataset
        shaped = Shaped(rows, lambda row, shape: {"input_ids": row[: shape.length], "labels": row[: shape.length]})
        return DataLoader(shaped, batch_sampler=MultigridSampler(plan, len(rows)), collate_fn=self.data_collator)


def test_trainer_trains_and_resumes_over_a_plan(tmp_path: Path) -> None:
    plan = Multigrid(MultigridOptions(2, length=16), 80)
    rows = torch.randint(11, (20, 16), generator=torch.Generator().manual_seed(0))

    def model_and_rule() -> tuple[GPT2LMHeadModel, torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=11,
                n_positions=16,
                n_embd=8,
                n_layer=1,
                n_head=1,
                resid_pdrop=0,
                embd_pdrop=0,
                attn_pdrop=0,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, plan.lr_factor)

    def trainer(folder: str, resume: str | None = None) -> dict[str, torch.Tensor]:
        model, *rules = model_and_rule()
        arguments = TrainingArguments(
            str(tmp_path / folder), max_steps=plan.steps, save_steps=7, max_grad_norm=0.0, report_to=[], use_cpu=True,
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        arguments.plan = plan
        Windows(model, arguments, train_dataset=rows, optimizers=tuple(rules)).train(resume_from_checkpoint=resume)
        return model.state_dict()

    model, optimizer, scheduler = model_and_rule()
    for keys in MultigridSampler(plan, 20):
        batch = torch.stack([rows[key.item, : key.shape.length] for key in keys])
        optimizer.zero_grad()
        model(batch, labels=batch, num_items_in_batch=batch.numel()).loss.backward()  # as Trainer does
        optimizer.step()
        scheduler.step()
    straight = trainer("straight")
    resumed = trainer("resumed", str(tmp_path / "straight" / "checkpoint-7"))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(straight[key], value)
        assert torch.equal(resumed[key], straight[key])


def test_a_key_is_an_item_and_its_shape() -> None:
    assert Shaped([10, 11], lambda item, shape: (item, shape.length))[Key(1, Shape(2, 3, None))] == (11, 3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MultigridOptions(8), "needs a length or a size"),
        (lambda: MultigridOptions(0, size=8), "batch = 0"),
        (lambda: MultigridOptions(8, size=8, last=1.0), "last = 1.0"),
        (lambda: MultigridOptions(8, size=8, short=(2.0,)), "factors must be above 0"),
        (lambda: MultigridOptions(8, size=8, long=()), "long must have one pair"),
        (lambda: Multigrid(MultigridOptions(8, size=8), 10), "samples = 10 are too few"),
        (lambda: MultigridSampler(Multigrid(MultigridOptions(8, size=8), 1000), 0), "items = 0"),
    ],
)
def test_bad_options_are_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
