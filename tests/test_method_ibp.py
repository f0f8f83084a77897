"""Certified training by interval bounds: what bounds promise, the paper's initialisation and regularisers, and a run."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError
from zkaudit.training.robust.bounds import IntervalPass
from zkaudit.training.robust.ibp import (
    CertifiedTraining,
    IBPOptions,
    certified_error,
    initialise,
    pgd_error,
    regulariser,
)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.max_pool2d(x + torch.relu(self.second(x)), 2)
        return self.last(x.view(x.size(0), -1))


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(inplace=True), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), eps=st.floats(0, 0.5), residual=st.booleans())
def test_no_input_in_the_ball_leaves_the_bounds(seed: int, eps: float, residual: bool) -> None:
    torch.manual_seed(seed)
    model = (Residual() if residual else small(seed)).double()
    records = torch.rand(5, 1, 4, 4).double() if residual else torch.rand(5, 6).double()
    model(records)  # running statistics that are not the identity
    model.eval()
    found = IntervalPass(model)(records, eps)
    for _ in range(5):
        output = model(records + eps * (torch.rand_like(records) * 2 - 1))
        assert (output >= found.output.lower - 1e-10).all()
        assert (output <= found.output.upper + 1e-10).all()


def test_bounds_of_one_linear_layer_are_reached_at_corners() -> None:
    torch.manual_seed(0)
    layer, record = nn.Linear(4, 3).double(), torch.rand(1, 4).double()
    corners = torch.stack([layer(record + 0.1 * torch.tensor(signs)) for signs in itertools.product((-1.0, 1.0), repeat=4)])
    found = IntervalPass(nn.Sequential(layer))(record, 0.1)
    torch.testing.assert_close(corners.amin(0), found.output.lower)
    torch.testing.assert_close(corners.amax(0), found.output.upper)


def test_margins_through_the_last_layer_are_at_least_those_from_logits_and_sound() -> None:
    model, (records, labels) = small().double().eval(), batch()
    records = records.double()
    found = IntervalPass(model)(records, 0.05)
    loose = found.output.lower.gather(1, labels[:, None]) - found.output.upper
    others = F.one_hot(labels, 3) == 0
    assert (found.margins(labels)[others] >= loose[others] - 1e-12).all()
    assert (found.margins(labels)[others] > loose[others] + 1e-6).any()
    logits = model(records + 0.05)
    assert (logits.gather(1, labels[:, None]) - logits >= found.margins(labels) - 1e-12).all()


def test_in_training_batch_norm_of_the_box_is_the_affine_map_of_clean_statistics() -> None:
    norm, (records, _) = nn.BatchNorm1d(6).double(), batch()
    nn.init.normal_(norm.weight)  # negative scales turn ends round
    records = records.double()
    scale = norm.weight / (records.var(0, correction=0) + norm.eps).sqrt()
    ends = torch.stack([(records + move - records.mean(0)) * scale + norm.bias for move in (-0.1, 0.1)])
    found = IntervalPass(nn.Sequential(norm))(records, 0.1)
    torch.testing.assert_close(ends.amin(0), found.output.lower)
    torch.testing.assert_close(ends.amax(0), found.output.upper)
    torch.testing.assert_close(0.1 * records.mean(0), norm.running_mean)  # updated once, by clean records


def test_clean_values_are_the_models_own_and_a_relu_in_place_spoils_no_box() -> None:
    model, (records, _) = small(), batch()
    other = copy.deepcopy(model)
    found = IntervalPass(model)(records, 0.1)
    assert torch.equal(other(records), found.output.clean)
    assert (found.relus[0].lower < 0).any()
    assert torch.equal(other[1].running_var, model[1].running_var)


def test_initialisation_keeps_widths_before_relus_constant() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(512, 512), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(512, 10))
    last = model[-1].weight.clone()
    names = initialise(model)
    assert names == [f"{2 * j}.weight" for j in range(6)]
    assert torch.equal(last, model[-1].weight)
    assert float(model[0].weight.detach().std()) == pytest.approx(math.sqrt(2 * math.pi) / 512, rel=0.02)
    widths = [float(box.half_width.detach().mean()) for box in IntervalPass(model)(torch.rand(32, 512), 0.1).relus]
    assert (widths[-1] / widths[0]) ** (1 / 5) == pytest.approx(1, abs=0.06)


def test_regulariser_is_the_papers_formula_by_hand() -> None:
    model, (records, _) = small().double(), batch()
    found = IntervalPass(model)(records.double(), 0.02)
    expected = 0.0
    for box in found.relus:
        lower, upper = box.lower.detach().numpy(), box.upper.detach().numpy()
        centre, on, off = (lower + upper) / 2, lower > 0, upper < 0
        spread = (centre - centre.mean()) ** 2
        means = centre[on].sum() / -centre[off].sum()
        spreads = spread[on].sum() / spread[off].sum()
        expected += max(0, 0.9 - 0.02 / ((upper - lower) / 2).mean()) / 0.9
        expected += sum(max(0, 0.9 - min(ratio, 1 / ratio)) for ratio in (means, spreads)) / 0.9
    assert expected > 0
    assert float(regulariser(found, 0.9)) == pytest.approx(expected / 2)


def test_radius_grows_smoothly_from_zero_to_eps_and_stays() -> None:
    options = IBPOptions(eps=0.2, warmup_steps=100, clean_steps=10)
    radii = [options.eps_at(step) for step in range(130)]
    assert radii[:11] == [0.0] * 11
    assert radii[110:] == [0.2] * 20
    steps = [after - before for before, after in itertools.pairwise(radii[10:111])]
    assert all(step > 0 for step in steps)
    assert max(abs(after - before) for before, after in itertools.pairwise(steps)) < 0.0004  # no jump where the line begins
    assert IBPOptions(eps=0.2, warmup_steps=0).eps_at(0) == 0.2


def train(model: nn.Module, training: CertifiedTraining, optimizer: torch.optim.Optimizer, steps: int) -> None:
    records, labels = batch()
    for _ in range(steps):
        optimizer.zero_grad()
        training.loss(records, labels).backward()
        optimizer.step()
        training.step()


def test_a_run_goes_on_bit_for_bit_after_its_states_are_loaded() -> None:
    options = IBPOptions(eps=0.1, warmup_steps=10, clean_steps=2)
    model, other = small(), small(5)
    optimizer = torch.optim.Adam(model.parameters())
    training = CertifiedTraining(model, options)
    train(model, training, optimizer, 6)
    again, resumed = torch.optim.Adam(other.parameters()), CertifiedTraining(other, options)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.load_state_dict(training.state_dict())
    train(model, training, optimizer, 6)
    train(other, resumed, again, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert training.eps == resumed.eps == 0.1


def test_an_attack_never_finds_more_than_the_certificate_allows_and_modes_are_restored() -> None:
    model, (records, labels) = small(), batch()
    training = CertifiedTraining(model, IBPOptions(eps=0.02, warmup_steps=30))
    train(model, training, torch.optim.Adam(model.parameters(), lr=0.02), 60)
    for eps in (0.0, 0.02, 0.1):
        certified = certified_error(model, records, labels, eps)
        attacked = pgd_error(model, records, labels, eps, steps=10, restarts=1)
        assert attacked <= certified
    assert certified_error(model, records, labels, 0.02) < 1
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("limits", [None, (0.0, 1.0)])
def test_at_radius_zero_certified_error_is_the_error(limits: tuple[float, float] | None) -> None:
    model, (records, labels) = small().eval(), batch()
    wrong = float((model(records).argmax(1) != labels).double().mean())
    assert wrong == certified_error(model, records, labels, 0.0, limits)


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.LayerNorm(6), "LayerNorm"), (nn.GELU(), "GELU"), (nn.Softmax(dim=1), "Softmax")]
)
def test_a_layer_without_bounds_is_refused_by_name(layer: nn.Module, name: str) -> None:
    with pytest.raises(TrainingError, match=name):
        IntervalPass(nn.Sequential(nn.Linear(6, 6), layer))(torch.rand(2, 6), 0.1)


def test_a_model_that_branches_on_values_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TrainingError, match="Branching cannot be traced"):
        IntervalPass(Branching())


@pytest.mark.parametrize(
    "change",
    [
        {"eps": 0.0},
        {"eps": math.nan},
        {"warmup_steps": -1},
        {"clean_steps": 0.5},
        {"tolerance": 0},
        {"weight": -1.0},
        {"limits": (1.0, 0.0)},
    ],
)
def test_bad_options_are_named(change: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match=next(iter(change))):
        IBPOptions(**{"eps": 0.1, "warmup_steps": 10, **change})
