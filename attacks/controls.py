"""Controls: what is recovered without the update. An attack shows something only by what it gains over them."""

from __future__ import annotations

import torch

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.threat import Capability, Observation


class RandomTokens:
    """Tokens in random order."""

    name = "random"
    needs = Capability.UPDATE

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """Never fails."""
        order = torch.randperm(observation.model.vocabulary, generator=torch.Generator().manual_seed(self.seed))
        scores = [1 - i / len(order) for i in range(len(order))]
        progress("drawing tokens", 1.0)
        return Recovery(self.name, Ranking(order.tolist(), scores, 0))


class LanguageModelOnly:
    """What the base model writes by itself: as many samples as there are records, tokens ranked by their mean probability.

    With a masked model or a classifier, for which there is nothing to sample from, it ranks tokens by the length of their
    embeddings alone.
    """

    name = "lm_only"
    needs = Capability.UPDATE

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @torch.no_grad()
    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """Never fails."""
        model = observation.model
        if model.task != "causal_lm":
            length = model.embedding.weight.norm(dim=1).double()
            order = length.argsort(descending=True, stable=True)
            return Recovery(self.name, Ranking(order.tolist(), length[order].tolist(), 0))
        generator = torch.Generator().manual_seed(self.seed)
        start = model.tokenizer.eos_token_id
        records = observation.federated.records * observation.federated.cohort
        ids = torch.full((records, 1), 0 if start is None else start, device=model.device)
        frequency = torch.zeros(model.vocabulary, dtype=torch.float64)
        model.module.eval()
        longest = observation.federated.longest
        for position in range(longest):
            likely = model.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1].double().softmax(-1).cpu()
            frequency += likely.mean(0)
            drawn = torch.multinomial(likely, 1, generator=generator)
            ids = torch.cat([ids, drawn.to(ids.device)], 1)
            progress("writing without the update", (position + 1) / longest)
        order = frequency.argsort(descending=True, stable=True)
        sequences = [_until_end(row[1:].tolist(), start) for row in ids]
        return Recovery(self.name, Ranking(order.tolist(), frequency[order].tolist(), 0), sequences)


def _until_end(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
