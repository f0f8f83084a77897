"""Label augmentation: labels, versions and logits belong together; one version is plain training."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError
from zkaudit.training.objectives.sla import LabelAugmentation, colour_permutations, combined, rotations


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def logits_of(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(n=st.integers(1, 5), classes=st.integers(1, 4), seed=st.integers(0, 99))
def test_loss_and_scores_are_the_papers_equations_record_by_record(n: int, classes: int, seed: int) -> None:
    sla = LabelAugmentation(rotations())
    logits, y = logits_of(4 * n, 4 * classes, seed), torch.arange(n) % classes
    loss, scores = torch.tensor(0.0, dtype=torch.float64), torch.zeros(n, classes, dtype=torch.float64)
    for record in range(n):
        for j in range(4):
            row = logits[4 * record + j]
            loss = loss - F.log_softmax(row, 0)[4 * y[record] + j]
            for c in range(classes):
                scores[record, c] += row[4 * c + j] / 4
    torch.testing.assert_close(sla.loss(logits, y), loss / (4 * n))
    torch.testing.assert_close(sla.aggregated(logits), scores)
    torch.testing.assert_close(sla.single(logits[::4]), torch.stack([logits[4 * i][::4] for i in range(n)]))


def test_one_version_is_plain_cross_entropy() -> None:
    sla = LabelAugmentation(rotations((0,)))
    logits, y = logits_of(5, 3), torch.tensor([0, 2, 1, 1, 0])
    assert torch.equal(sla.augment(images(5)), images(5))
    assert sla.loss(logits, y) == F.cross_entropy(logits, y)
    assert torch.equal(sla.single(logits), logits)
    assert torch.equal(sla.aggregated(logits), logits)


def test_versions_of_a_record_are_neighbours() -> None:
    x = images(3)
    rows = LabelAugmentation(rotations()).augment(x)
    for record in range(3):
        for j in range(4):
            assert torch.equal(rows[4 * record + j], torch.rot90(x[record], j, (1, 2)))


@pytest.mark.parametrize(
    ("transforms", "count"),
    [
        (rotations(), 4),
        (rotations((0, 2)), 2),
        (colour_permutations(), 6),
        (colour_permutations(cyclic=True), 3),
        (combined(rotations((0, 2)), colour_permutations(cyclic=True)), 6),
        (combined(rotations(), colour_permutations(cyclic=True)), 12),
        (combined(rotations(), colour_permutations()), 24),
    ],
)
def test_transformations_are_different_and_only_move_pixels(transforms: tuple, count: int) -> None:
    x = torch.arange(48.0).reshape(1, 3, 4, 4)
    rows = LabelAugmentation(transforms).augment(x)
    assert len({tuple(row.flatten().tolist()) for row in rows}) == len(rows) == count
    assert all(sorted(row.flatten().tolist()) == list(range(48)) for row in rows)


def test_an_equivariant_model_scores_the_same_once_and_aggregated() -> None:
    """Logits that name the version and see the same class in it: what aggregation is a mean of."""
    sla = LabelAugmentation(rotations())
    single = logits_of(3, 2)
    logits = torch.zeros(3, 4, 2, 4, dtype=torch.float64)
    for j in range(4):
        logits[:, j, :, j] = single
    torch.testing.assert_close(sla.aggregated(logits.reshape(12, 8)), single)


def test_distillation_pulls_the_head_to_the_aggregate_and_leaves_that_alone() -> None:
    sla = LabelAugmentation(rotations())
    logits, head = logits_of(8, 12).requires_grad_(), logits_of(2, 3, 1).requires_grad_()
    y = torch.tensor([0, 2])
    terms = sla.distilled(logits, head, y, temperature=2.0)
    target, found = F.softmax(sla.aggregated(logits) / 2, 1), F.log_softmax(head / 2, 1)
    torch.testing.assert_close(terms.distillation, 4 * (target * (target.log() - found)).sum(1).mean())
    terms.distillation.backward()
    assert logits.grad is None
    assert head.grad is not None
    torch.testing.assert_close(head.grad, 2 * (F.softmax(head / 2, 1) - target).detach() / 2)
    assert sla.distilled(logits, sla.aggregated(logits).detach(), y).distillation == pytest.approx(0, abs=1e-12)


def test_a_network_trains_in_an_ordinary_loop() -> None:
    torch.manual_seed(0)
    sla, x, y = LabelAugmentation(rotations()), images(6), torch.arange(6) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 8))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        sla.loss(model(sla.augment(x)), y).backward()
        optimizer.step()
    assert torch.equal(sla.aggregated(model(sla.augment(x))).argmax(1), y)
    assert torch.equal(sla.single(model(x)).argmax(1), y)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LabelAugmentation(()), "needs a transformation"),
        (lambda: LabelAugmentation(rotations((1, 0))).augment(images(2)), "must be the identity"),
        (lambda: LabelAugmentation([lambda x: x, lambda x: x[:, :1]]).augment(images(2)), "changes the shape"),
        (lambda: LabelAugmentation(rotations()).loss(logits_of(6, 8), torch.zeros(2)), "multiples of 4"),
        (lambda: LabelAugmentation(rotations()).aggregated(logits_of(8, 6)), "multiples of 4"),
        (lambda: LabelAugmentation(rotations()).single(logits_of(8, 6)), "no multiple of 4"),
        (lambda: LabelAugmentation(rotations()).distilled(logits_of(8, 8), logits_of(2, 2), torch.zeros(2), 0), "temperature"),
    ],
)
def test_what_does_not_fit_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
