"""BASH, batch-scheduled sampling: contexts in which some tokens are the model's own (Cen et al. 2024, arXiv 2410.14655).

In training a model reads the truth, in use what it wrote itself. Before an epoch, and not inside a step, each row of tokens y
gets a context c in which every target token is, with probability beta, replaced by the model's own:

    c_t = y_t                                   with probability 1 - beta, and outside the targets
    c_t = a token from p(. | c_1, ..., c_(t-1))     otherwise: the likeliest at temperature 0, else drawn

and the model is trained on the truth after it: loss = - sum log p(y_t | c_1, ..., c_(t-1)). beta = 0 is ordinary training, bit
for bit. The paper's mixing probability and rounds are not known to us: here beta rises linearly from 0 to 0.2, and contexts are
made once an epoch. It is a biased objective: after a wrong token, the true next one need not be what should follow, so beta
stays small, and 1 is refused by default.

Whether a token is replaced, and which one is drawn, depends on the record's own seed, derive_seed(run_seed,
"objective.bash.ROUND", record), and not on the batch it is in. The model's own tokens are replayed exactly only where its
arithmetic is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="bash",
    title="Batch-scheduled sampling",
    paper="Cen et al. 2024, arXiv 2410.14655",
    where="zkaudit.training.objectives.bash.Bash",
    changes=("objective",),
    effect="Better summaries and answers to general and mathematical questions than training on the truth alone.",
    library="",
    provable="A step is an ordinary one on committed contexts; that the model wrote them is replayed, not proved.",
    server_sees="Gradients with tokens that are not in the data: decoys, but what the model remembers may be among them.",
    use=(
        "from zkaudit.training.objectives.bash import Bash, BashOptions, beta_at\n"
        "\n"
        'bash = Bash(BashOptions(beta=0.2), run_seed="7f")\n'
        "batch = bash.contexts(model, batch, records, round=epoch, beta=beta_at(epoch, epochs, 0.2))\n"
        "loss = model(**batch).loss"
    ),
    avoid="Models that only score text, and a beta near 1: then what follows in the truth no longer fits what was read.",
    binding="declared",
)


@dataclass(frozen=True)
class BashOptions:
    """`beta` is the probability of an own token, `temperature` 0 takes the likeliest."""

    beta: float = 0.2
    temperature: float = 0.0
    allow_all_own: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise TrainingError(f"beta = {self.beta} must be from 0 to 1")
        if self.beta == 1 and not self.allow_all_own:
            raise TrainingError("beta = 1 leaves nothing of the truth in the context: allow_all_own says that it is meant")
        if not self.temperature >= 0:
            raise TrainingError(f"temperature = {self.temperature} must not be negative")


def beta_at(done: int, total: int, beta: float) -> float:
    """Linear from 0 at the first of `total` rounds to `beta` at the last."""
    if not 0 <= done < total:
        raise TrainingError(f"round {done} is none of {total}")
    return beta * done / max(total - 1, 1)


class Bash:
    """Makes contexts for a causal model of transformers, which shifts labels itself.

    Raises TrainingError for padding on the left and for records that do not number the rows.
    """

    def __init__(self, options: BashOptions, run_seed: str) -> None:
        self.options, self.run_seed = options, run_seed

    def contexts(
        self, model: nn.Module, batch: Mapping[str, Tensor], records: Sequence[int], round: int, beta: float | None = None
    ) -> dict[str, Tensor]:
        """The batch with own tokens in input_ids (N, L). Targets are where labels (N, L) are not -100; labels stay.

        `records` are the rows' numbers in the data, `round` that of the generation; `beta` stands for the option's. The model
        is used in evaluation mode and left as it was. Cost: a pass over the batch, token by token after the first target.
        """
        ids, labels = batch["input_ids"], batch["labels"]
        mask = batch.get("attention_mask", torch.ones_like(ids))
        if len(records) != len(ids):
            raise TrainingError(f"{len(records)} record numbers were given for {len(ids)} rows")
        if bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise TrainingError("rows are padded on the left: contexts need padding on the right")
        chosen, points = self._draws(labels, records, round, self.options.beta if beta is None else beta)
        chosen[:, 0] = False  # the first token has no context to be written from
        made = dict(batch)
        if bool(chosen.any()):
            made["input_ids"] = self._written(model, ids.clone(), mask, chosen, points)
        return made

    def _draws(self, labels: Tensor, records: Sequence[int], round: int, beta: float) -> tuple[Tensor, Tensor]:
        """Which tokens are own (N, L), and for each a number in [0, 1) to draw it with."""
        rows = []
        for record in records:
            draws = random.Random(derive_seed(self.run_seed, f"objective.bash.{round}", record))
            rows.append([[draws.random(), draws.random()] for _ in range(labels.shape[1])])
        numbers = torch.tensor(rows, dtype=torch.float64, device=labels.device)
        return (numbers[..., 0] < beta) & (labels != -100), numbers[..., 1]

    @torch.no_grad()
    def _written(self, model: Any, ids: Tensor, mask: Tensor, chosen: Tensor, points: Tensor) -> Tensor:
        """Own tokens where they were chosen, from left to right."""
        first, last = int(chosen.any(0).nonzero()[0]), int(chosen.any(0).nonzero()[-1])
        cache = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"  # its older name
        with _evaluated(model):
            out = model(input_ids=ids[:, :first], attention_mask=mask[:, :first], use_cache=True)
            for t in range(first, last + 1):
                own = self._token(out.logits[:, -1], points[:, t])
                ids[:, t] = torch.where(chosen[:, t], own, ids[:, t])
                if t < last:
                    past = {cache: out[cache]}
                    out = model(input_ids=ids[:, t : t + 1], attention_mask=mask[:, : t + 1], use_cache=True, **past)
        return ids

    def _token(self, logits: Tensor, points: Tensor) -> Tensor:
        """(N,) tokens from logits (N, V): the likeliest, the lower of equal ones, or by the inverse of the distribution."""
        if self.options.temperature == 0:
            return logits.argmax(1)
        total = (logits.double() / self.options.temperature).softmax(1).cumsum(1)
        return torch.searchsorted(total, points[:, None] * total[:, -1:], right=True)[:, 0].clamp(max=logits.shape[1] - 1)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was
