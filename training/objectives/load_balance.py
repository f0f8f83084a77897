"""Load balancing of a mixture of experts over the global batch.

    LBL = E sum_i f_i p_i      f_i: choices of expert i per token, counted over all ranks and accumulated micro-batches
                               p_i: mean router probability of expert i over the tokens of this micro-batch

Counted over a micro-batch of a few sequences, f makes the router spread each sequence evenly, so that no expert can take a
subject; counted over the global batch only the corpus is spread. Only the counts (E numbers a layer) are summed over ranks:
they have no gradient. Qiu et al., "Demons in the Detail: On Implementing Load Balancing Loss for Training Specialized
Mixture-of-Expert Models", 2025, arXiv:2501.11873. With gradient accumulation f is taken from the micro-batches so far, as
there. f sums to top_k, as in transformers' Mixtral, so that coefficients (0.01 to 0.001) carry over. Ours: a rank with more
tokens weighs more, so that with one micro-batch a step the gradient averaged over ranks is exactly that of one process with the
whole batch; for equal token counts it is the paper's loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="global-load-balance",
    title="Global-batch load balancing for mixtures of experts",
    paper="Qiu et al. 2025, arXiv:2501.11873",
    where="zkaudit.training.objectives.load_balance.GlobalLoadBalance",
    changes=("objective",),
    effect="Lower perplexity and experts that specialise by subject, for one all-reduce of the counts.",
    library="transformers has the micro-batch loss (load_balancing_loss_func); counts over ranks and micro-batches are ours.",
    provable="Not yet: softmax and the choice of the largest need lookups; the counts are linear in proved choices.",
    server_sees="Beside the gradient, how often each expert was chosen by every worker's tokens.",
    use=(
        "from zkaudit.training.objectives.load_balance import GlobalLoadBalance\n"
        "\n"
        "balance = GlobalLoadBalance(experts=8, top_k=2, layers=32, accumulate=4)\n"
        "loss = outputs.loss + 0.01 * balance(outputs.router_logits, attention_mask)  # router_aux_loss_coef = 0 in the model"
    ),
    avoid=(
        "With experts on several devices and a capacity limit: a micro-batch may be uneven, so that one device "
        "waits or drops tokens."
    ),
)


class GlobalLoadBalance(nn.Module):
    """The loss from router logits (T, E), or one such tensor a layer (what transformers returns as `router_logits`); mean over
    layers.

    Call it once a micro-batch, add coefficient x result to the loss, and divide both by `accumulate` as usual. After
    `accumulate` calls in training the counts start anew, so every rank must make the same number of calls. Counts live in
    buffers: `state_dict` in the middle of an accumulation resumes it. Evaluation neither counts on nor talks to others. With
    transformers set `router_aux_loss_coef` = 0 first: it adds the micro-batch loss itself.
    """

    counts: Tensor  # (layers, experts): choices so far in this step, over all ranks
    tokens: Tensor  # (): tokens so far
    calls: Tensor  # (): micro-batches so far

    def __init__(
        self, experts: int, top_k: int, layers: int = 1, accumulate: int = 1, group: dist.ProcessGroup | None = None
    ) -> None:
        if not 1 <= top_k <= experts:
            raise TrainingError(f"top_k = {top_k} must be from 1 to the number of experts, {experts}")
        if min(layers, accumulate) < 1:
            raise TrainingError(f"layers = {layers} and accumulate = {accumulate} must be at least 1")
        super().__init__()
        self.experts, self.top_k, self.accumulate, self.group = experts, top_k, accumulate, group
        # Whole numbers, which stay exact when a model that holds this is made bfloat16.
        self.register_buffer("counts", torch.zeros(layers, experts, dtype=torch.int64))
        self.register_buffer("tokens", torch.zeros((), dtype=torch.int64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """`mask` (T,) or (batch, length) is 0 for padding. Raises ValueError for logits of another shape."""
        stacked = self._stacked(logits)
        kept = torch.ones(stacked.shape[1], dtype=torch.bool) if mask is None else mask.reshape(-1) != 0
        kept = kept.to(stacked.device)
        if len(kept) != stacked.shape[1]:
            raise ValueError(f"mask has {len(kept)} entries for {stacked.shape[1]} tokens")
        probabilities = stacked.to(torch.promote_types(stacked.dtype, torch.float32)).softmax(-1)
        here = self._chosen(stacked.detach(), kept)
        counts, tokens, ranks, everywhere = self._gather(here, kept)
        frequency = counts.to(probabilities.dtype) / tokens.clamp(min=1)
        mean = (probabilities * kept[:, None]).sum(1) * ranks / everywhere.clamp(min=1)
        return self.experts * (frequency * mean).sum(-1).mean()

    def reset(self) -> None:
        """Forget the micro-batches so far, as at a step that was abandoned."""
        for buffer in (self.counts, self.tokens, self.calls):
            buffer.zero_()

    def _stacked(self, logits: Tensor | Sequence[Tensor]) -> Tensor:
        layers = [logits] if isinstance(logits, Tensor) else list(logits)
        if len(layers) != len(self.counts) or any(layer.shape[-1] != self.experts for layer in layers):
            shapes = [tuple(layer.shape) for layer in layers]
            raise ValueError(f"logits have shapes {shapes}; expected {len(self.counts)} of (T, {self.experts})")
        return torch.stack([layer.reshape(-1, self.experts) for layer in layers])

    def _chosen(self, logits: Tensor, kept: Tensor) -> Tensor:
        """(layers, experts): how often each is among the top_k of a token that is kept."""
        choices = logits.topk(self.top_k, dim=-1).indices.flatten(1)
        weights = kept.repeat_interleave(self.top_k).expand_as(choices).long()
        return torch.zeros(len(logits), self.experts, dtype=torch.int64, device=logits.device).scatter_add_(1, choices, weights)

    @torch.no_grad()
    def _gather(self, here: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, int, Tensor]:
        """Counts and tokens of the step so far, the number of ranks, and this micro-batch's tokens on all of them."""
        message = torch.cat([here.flatten(), kept.sum()[None]])
        if not self.training:
            return here, message[-1], 1, message[-1]
        ranks = 1
        if dist.is_available() and dist.is_initialized():
            ranks = dist.get_world_size(self.group)
            dist.all_reduce(message, group=self.group)
        if int(self.calls) == self.accumulate:
            self.reset()
        self.counts += message[:-1].view_as(self.counts)
        self.tokens += message[-1]
        self.calls += 1
        return self.counts, self.tokens, ranks, message[-1]


def specialisation(choices: Tensor, domains: Tensor) -> float:
    """Mutual information, in nats, of the expert chosen (T,) or (T, k) and the subject (T,) of a token, both small integers.

    0: every subject uses the experts alike; at most the entropy of the subjects. Raises ValueError for other shapes.
    """
    if domains.dim() != 1 or choices.shape[:1] != domains.shape or not domains.numel():
        raise ValueError(f"choices {tuple(choices.shape)} and domains {tuple(domains.shape)} must be of the same tokens")
    experts = choices.reshape(len(domains), -1)
    subjects = domains[:, None].expand_as(experts)
    joint = torch.zeros(int(experts.max()) + 1, int(subjects.max()) + 1, dtype=torch.float64)
    joint.index_put_((experts.flatten().cpu(), subjects.flatten().cpu()), torch.ones((), dtype=torch.float64), accumulate=True)
    joint /= joint.sum()
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    held = joint > 0
    return float((joint[held] * (joint[held] / independent[held]).log()).sum())
