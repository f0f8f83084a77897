"""Concurrent adversarial training: attacked inputs are made with weights `delay` steps old, in norms of their own."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from zkaudit.training.batch.conadv import ConAdv, ConAdvOptions, DualBatchNorm, dual_batch_norm, single_batch_norm
from zkaudit.training.errors import TrainingError

Batch = tuple[Tensor, Tensor]


def batches(count: int, records: int = 6) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        x = torch.randn(records, 4, generator=generator, dtype=torch.float64)
        made.append((x, (x.sum(1) > 0).long()))
    return made


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double()


def started(delay: int = 1) -> tuple[nn.Module, torch.optim.Optimizer, ConAdv]:
    model = network()
    dual_batch_norm(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    return model, optimizer, ConAdv(model, F.cross_entropy, ConAdvOptions(0.1, delay))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, adversary: ConAdv, data: list[Batch], most: int = 99) -> None:
    for step, (x, y, attacked) in enumerate(adversary.ahead(data), 1):
        optimizer.zero_grad()
        adversary.loss(x, y, attacked).backward()
        optimizer.step()
        if step == most:
            return


@settings(max_examples=10)
@given(delay=st.integers(0, 3), weight=st.sampled_from([0.0, 0.5, 1.0]))
def test_training_is_the_papers_loop_by_hand_for_a_linear_model(delay: int, weight: float) -> None:
    """Logistic regression: dL/dx = (softmax - y) W, weights kept of every step."""
    data = batches(6)
    model = nn.Linear(4, 2, bias=False).double()
    hand = [model.weight.detach().clone()]
    for step, (x, y) in enumerate(data):
        w, old = hand[-1], hand[max(0, step - delay)]
        target = F.one_hot(y, 2).double()
        attacked = x + 0.1 * torch.sign(((x @ old.T).softmax(1) - target) @ old)
        gradient = ((x @ w.T).softmax(1) - target).T @ x + weight * ((attacked @ w.T).softmax(1) - target).T @ attacked
        hand.append(w - 0.3 * gradient / len(x))
    adversary = ConAdv(model, F.cross_entropy, ConAdvOptions(0.1, delay, weight))
    train(model, torch.optim.SGD(model.parameters(), 0.3), adversary, data)
    torch.testing.assert_close(model.weight.detach(), hand[-1], rtol=1e-12, atol=1e-12)


def test_an_attack_needs_no_update_of_the_step_before() -> None:
    """What step 3 trains on is there when step 2's batch is handed out, before its update."""
    model, optimizer, adversary = started()
    held = []
    for x, y, attacked in adversary.ahead(batches(4)):
        held.append((attacked.clone(), [made.clone() for made in adversary.state_dict()["made"]]))
        adversary.loss(x, y, attacked).backward()
        optimizer.step()
        assert model[0].weight.grad is not None
    for (_, made), (attacked, _) in itertools.pairwise(held):
        assert torch.equal(made[0], attacked)


def test_an_attack_leaves_gradients_and_statistics_alone() -> None:
    model, _, adversary = started()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ((x, y),) = batches(1)
    adversary.attack(x, y)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_small_attack_raises_the_loss() -> None:
    model = network()
    adversary = ConAdv(model, F.cross_entropy, ConAdvOptions(1e-3))
    ((x, y),) = batches(1)
    attacked = adversary.attack(x, y)
    assert float((attacked - x).abs().max()) == pytest.approx(1e-3)
    assert F.cross_entropy(model(attacked), y) > F.cross_entropy(model(x), y)


def test_attacked_inputs_stay_within_the_bounds() -> None:
    ((x, y),) = batches(1)
    attacked = ConAdv(network(), F.cross_entropy, ConAdvOptions(0.5, low=-1.0, high=1.0)).attack(x.clamp(-1, 1), y)
    assert attacked.abs().max() == 1.0


def test_clean_and_attacked_inputs_have_statistics_of_their_own() -> None:
    model, _, adversary = started()
    ((x, y),) = batches(1)
    far = x + 100
    adversary.loss(x, y, far)
    norm = model[1]
    assert isinstance(norm, DualBatchNorm)
    for seen, one in ((x, norm.main), (far, norm.auxiliary)):
        torch.testing.assert_close(one.running_mean, 0.1 * model[0](seen).mean(0).detach())
        assert int(one.num_batches_tracked) == 1


def test_evaluation_and_the_model_afterwards_use_the_main_norms() -> None:
    model, optimizer, adversary = started()
    keys = list(network().state_dict())
    train(model, optimizer, adversary, batches(3))
    ((x, _),) = batches(1)
    expected = model.eval()(x)
    single_batch_norm(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), expected)
    assert not adversary.separate


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_a_run_from_a_saved_state_goes_on_bit_for_bit(delay: int) -> None:
    data = batches(7)
    straight, broken, resumed = (started(delay) for _ in range(3))
    train(*straight, data)
    train(*broken, data, most=3)
    for old, new in zip(broken, resumed, strict=True):
        new.load_state_dict(old.state_dict())
    train(*resumed, data[3:])
    assert all(torch.equal(value, resumed[0].state_dict()[key]) for key, value in straight[0].state_dict().items())


def test_a_new_pass_makes_attacks_of_its_own_batches() -> None:
    model, optimizer, adversary = started()
    data = batches(3)
    train(model, optimizer, adversary, data, most=1)
    x, _, attacked = next(adversary.ahead(data[::-1]))
    assert float((attacked - x).abs().max()) == pytest.approx(0.1)


class Classifier(nn.Module):
    """What HF's Trainer trains: keyword arguments in, a dictionary with a loss out."""

    def __init__(self, adversary_of: nn.Module) -> None:
        super().__init__()
        self.network = adversary_of
        self.adversary = ConAdv(adversary_of, F.cross_entropy, ConAdvOptions(0.1))

    def forward(self, x: Tensor, labels: Tensor, attacked: Tensor) -> dict[str, Tensor]:
        return {"loss": self.adversary.loss(x, labels, attacked)}


class Ahead:
    """A loader of dictionaries, with attacked inputs."""

    def __init__(self, loader: DataLoader, adversary: ConAdv) -> None:
        self.loader, self.adversary = loader, adversary

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for x, labels, attacked in self.adversary.ahead((row["x"], row["labels"]) for row in self.loader):
            yield {"x": x, "labels": labels, "attacked": attacked}


class ConAdvTrainer(Trainer):
    def get_train_dataloader(self) -> Ahead:
        return Ahead(super().get_train_dataloader(), self.model.adversary)


def test_trainer_trains_what_the_loop_trains(tmp_path: Path) -> None:
    data = batches(4)
    model, optimizer, adversary = started()
    train(model, optimizer, adversary, data)
    twin = network()
    dual_batch_norm(twin)
    rows = [{"x": x, "labels": y} for xs, ys in data for x, y in zip(xs, ys, strict=True)]
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=6, num_train_epochs=1, max_grad_norm=0.0, report_to=[], use_cpu=True,
        remove_unused_columns=False, save_strategy="no", logging_strategy="no", disable_tqdm=True,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    constant = torch.optim.lr_scheduler.ConstantLR(rule := torch.optim.SGD(twin.parameters(), 0.2, momentum=0.9), factor=1.0)
    ConAdvTrainer(Classifier(twin), arguments, train_dataset=rows, optimizers=(rule, constant)).train()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"eps": 0.0}, "eps = 0.0"), ({"delay": -1}, "delay = -1"), ({"weight": -0.5}, "weight = -0.5")],
)
def test_bad_options_are_named(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        ConAdvOptions(**{"eps": 0.1} | options)


def test_states_and_models_that_do_not_fit_are_refused() -> None:
    _, _, adversary = started(delay=1)
    with pytest.raises(TrainingError, match="holds 2 attacked batches; delay = 1"):
        adversary.load_state_dict({"made": [torch.ones(1), torch.ones(1)]})
    adversary.load_state_dict({"made": [torch.ones(1, 4)]})
    with pytest.raises(TrainingError, match=r"shape \(1, 4\) for a batch of \(6, 4\)"):
        next(adversary.ahead(batches(2)))
    with pytest.raises(TrainingError, match="auxiliary norms already"):
        dual_batch_norm(adversary.model)
