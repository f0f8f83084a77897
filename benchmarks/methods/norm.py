"""Checks of the normalisation layers, on scikit-learn's digits."""

from __future__ import annotations

import statistics

import numpy as np
import torch
from methods.batch import TRAIN, accuracy, convolutional, shuffled, train, warmed
from methods.check import Check, Measured
from torch import nn

from zkaudit.training.norm import batch_channel, ghost_batch
from zkaudit.training.norm.layer import layer_norm_backward
from zkaudit.training.norm.weight_standard import standardise_weights
from zkaudit.training.schedule.regime import Regime

GAP_SEEDS = range(3)
SMALL = Regime(batch=16, lr=0.02, epochs=6)
LARGE = 256


def ghost_closes_the_gap() -> Measured:
    """Share of the gap in test accuracy between a small and a large batch, at equal epochs, that is closed."""
    long = SMALL.adapted(LARGE)
    short = Regime(LARGE, long.lr, SMALL.epochs)
    found = {
        "small": _mean(SMALL, None),
        "large": _mean(short, None),
        "large, ghost": _mean(short, 16),
        "large, as many updates": _mean(long, None),
        "large, as many updates, ghost": _mean(long, 16),
    }
    note = "; ".join(f"{name} {score:.2f}%" for name, score in found.items())
    gap = found["small"] - found["large"]
    closed = found["large, as many updates, ghost"] - found["large"]
    return Measured(closed / gap, 1.0, f"{note}; batches {SMALL.batch} and {LARGE}")


def _mean(regime: Regime, ghost: int | None) -> float:
    scores = []
    for seed in GAP_SEEDS:
        model = convolutional(seed, 4)
        if ghost:
            ghost_batch.convert_batch_norm(model, ghost)
        optimizer = torch.optim.SGD(model.parameters(), regime.lr, momentum=0.9)
        scheduler = warmed(optimizer, regime.updates(TRAIN))
        train(model, shuffled(regime.batch, regime.epochs, seed), optimizer, scheduler)
        scores.append(accuracy(model))
    return statistics.mean(scores)


def micro_batch(batch: int) -> Measured:
    """Test accuracy after two epochs with one or two records a step."""
    found: dict[str, list[float]] = {"batch norm": [], "batch norm, batch 32": [], "group norm": [], "ws + bcn": []}
    for seed in range(2):
        for kind, scores in found.items():
            model = convolutional(seed, 8, last_stride=2)
            if kind == "ws + bcn":
                batch_channel.convert_batch_norm(model, groups=4)
                standardise_weights(model)
            elif kind == "group norm":
                for name, norm in [(name, norm) for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)]:
                    model.set_submodule(name, nn.GroupNorm(4, norm.num_features))
            size = 32 if kind.endswith("32") else batch
            steps = 2 * TRAIN // size
            optimizer = torch.optim.SGD(model.parameters(), 0.05 * size / 32, momentum=0.9)
            train(model, shuffled(size, 2, seed), optimizer, warmed(optimizer, steps))
            scores.append(accuracy(model))
    mean = {kind: statistics.mean(scores) for kind, scores in found.items()}
    note = "; ".join(f"{kind} {score:.2f}%" for kind, score in mean.items())
    return Measured(mean["ws + bcn"] - mean["batch norm"], None, f"{note}; batch norm still averages over 4 to 64 positions")


def backward_error() -> Measured:
    """Largest difference from torch's gradients in float64, relative to the largest gradient."""
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(64, 16, 96, generator=generator, dtype=torch.float64) for _ in range(2))
    norm, differences = nn.LayerNorm(96).double(), []
    nn.init.normal_(norm.weight, generator=generator)
    norm(x.requires_grad_()).backward(dy)
    ours = layer_norm_backward(dy.numpy(), x.detach().numpy(), norm.weight.detach().numpy())
    for theirs, mine in zip((x.grad, norm.weight.grad, norm.bias.grad), ours, strict=True):
        differences.append(float(np.abs(theirs.numpy() - mine).max() / np.abs(mine).max()))
    return Measured(max(differences), None, "float64, 1024 rows of 96; 0 would be bit equality")


CHECKS = [
    Check("ghost-batch-norm", "share of the large batch's gap closed, as many updates", "of 1", "higher", ghost_closes_the_gap),
    Check("ws-bcn", "accuracy over batch norm, 1 record a step", "points", "higher", lambda: micro_batch(1)),
    Check("ws-bcn", "accuracy over batch norm, 2 records a step", "points", "higher", lambda: micro_batch(2)),
    Check("layer-norm", "error of the written-out backward pass", "relative", "lower", backward_error),
]
