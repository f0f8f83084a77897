"""What the weights of a base or of adapters look like: an imprinting start has equal rows, ladders of biases, odd sizes.

Each measurement is the worst over the model's matrices (or biases). Embeddings and output layers are left out, dimensions
below 8, where chance alone gives odd figures, and the second matrix of an adapter: it starts at zero and is of low rank after
a step. Attacks of this kind: Robbing the Fed, Decepticons, PEFTLeak.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy import stats
from torch import Tensor, nn

from zkaudit.attacks.model import PublicModel

LEAST = 8
SECOND = ("lora_B", "lora_embedding", "adapter_up")  # of an adapter, in the names of its layers
LADDER = 12  # biases from which a ladder can be told from chance


def measure(model: PublicModel) -> dict[str, float]:
    """The measurements "equal_rows", "bias_ladder", "pass_through", "outlier" and "low_rank" of all layers."""
    large = [weight for weight in _matrices(model) if min(weight.shape) >= LEAST]
    matrices = [weight for weight in large if bool(weight.any())]
    biases = [bias for bias in _biases(model) if len(set(bias.tolist())) >= LADDER]
    return {
        "equal_rows": max(map(_equal_rows, matrices), default=0.0),
        "bias_ladder": max(map(_ladder, biases), default=0.0),
        "pass_through": max((_identity(block) for weight in large for block in _blocks(weight)), default=0.0),
        "outlier": _outlier(matrices),
        "low_rank": max(map(_low_rank, matrices), default=0.0),
    }


def _layers(model: PublicModel) -> Iterator[tuple[nn.Module, Tensor]]:
    for name, module in model.module.named_modules():
        weight = module._parameters.get("weight")  # a wrapper's `weight` is that of the layer in it
        if isinstance(module, nn.Embedding) or any(part in name for part in SECOND):
            continue
        if weight is not None and weight.dim() == 2 and weight.is_floating_point():
            yield module, weight.detach().double()


def _matrices(model: PublicModel) -> Iterator[Tensor]:
    """Weights of linear layers as (outputs, inputs), the output layer (one row a token) left out."""
    for module, stored in _layers(model):
        weight = stored.T if type(module).__name__ == "Conv1D" else stored
        if weight.shape[0] != model.vocabulary:
            yield weight


def _biases(model: PublicModel) -> Iterator[Tensor]:
    for module, _ in _layers(model):
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            yield bias.detach().double().cpu()  # for scipy


def _equal_rows(weight: Tensor) -> float:
    """The share of rows, or of columns, that are parallel to another one."""
    return max(_parallel(weight), _parallel(weight.T))


def _parallel(rows: Tensor) -> float:
    rows = rows[rows.norm(dim=1) > 0]
    if len(rows) < 2:
        return 0.0
    unit = rows / rows.norm(dim=1, keepdim=True)
    close = (unit @ unit.T).abs().fill_diagonal_(0)
    return float((close.max(1).values > 0.999).double().mean())


def _ladder(bias: Tensor) -> float:
    """How evenly sorted biases climb: 1 / (m (1 - r^2)), r the correlation with quantiles of a normal or a uniform law.

    1000 if they climb from row to row.
    """
    ordered = bias.sort().values.numpy()
    steps = (torch.arange(len(ordered)).double().numpy() + 0.5) / len(ordered)
    r = max(float(stats.pearsonr(ordered, law).statistic) for law in (steps, stats.norm.ppf(steps)))
    rising = abs(float(stats.spearmanr(bias.numpy(), steps).statistic))
    return max(1 / (len(ordered) * max(1 - r * r, 1e-9)), 1e3 if rising > 0.999 else 0.0)


def _blocks(weight: Tensor) -> Iterator[Tensor]:
    """Square blocks: the matrix itself, or q, k and v of a fused one."""
    outputs, inputs = weight.shape
    if outputs % inputs == 0 and outputs // inputs in (1, 3):
        yield from weight.reshape(-1, inputs, inputs)


def _identity(block: Tensor) -> float:
    """Cosine of a square matrix with the identity; 1 for zeros, which pass nothing at all on."""
    norm = float(block.norm())
    return abs(float(block.trace())) / (len(block) ** 0.5 * norm) if norm else 1.0


def _outlier(matrices: list[Tensor]) -> float:
    """Decades between the size (root mean square) of the most extreme matrix and the median one."""
    sizes = torch.tensor([float(weight.square().mean().sqrt()) for weight in matrices], dtype=torch.float64).log10()
    return float((sizes - sizes.median()).abs().max()) if len(sizes) else 0.0


def _low_rank(weight: Tensor) -> float:
    """1 - effective rank / full rank, the effective one being exp of the entropy of the squared singular values' shares."""
    power = torch.linalg.svdvals(weight).square()
    share = power[power > 0] / power.sum()
    return 1 - (float(torch.exp(-(share * share.log()).sum())) - 1) / (min(weight.shape) - 1)
