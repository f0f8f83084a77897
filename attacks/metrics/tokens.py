"""How well an attack finds which tokens are in a batch: distinct tokens, special ones (padding, end of text) left out.

`recall_at_n` takes the first n of the ranking, n the number of true tokens; tokens tied at the cut count by their share.
`auc` is the probability that a true token stands before one that is not there (Mann-Whitney); tokens that the ranking
leaves out are tied last. `token_chance` is n / V, the recall at n of a random ranking.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from scipy.stats import rankdata

from zkaudit.attacks.attack import Ranking
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.metrics.bootstrap import Sample


def token_metrics(ranking: Ranking, true: Collection[int], vocabulary: int, special: Collection[int] = ()) -> dict[str, Sample]:
    """All token metrics of a ranking; `true` are the batch's token ids. AuditError if none of them is an ordinary token."""
    ignored = set(special)
    wanted = set(true) - ignored
    ordinary = np.array([token for token in range(vocabulary) if token not in ignored])
    if not wanted or not wanted <= set(ordinary.tolist()):
        raise AuditError(f"the true tokens are empty or not below the vocabulary's size {vocabulary}")
    first: dict[int, float] = {}
    claimed = set()
    for place, (token, score) in enumerate(zip(ranking.ids, ranking.scores, strict=True)):
        token = int(token)
        if token in ignored or not 0 <= token < vocabulary:
            continue
        first.setdefault(token, float(score))
        if place < ranking.claimed:
            claimed.add(token)
    ids = list(first)
    scores = np.nan_to_num(np.array([first[token] for token in ids]), nan=-np.inf)
    ranks = dict(zip(ids, rankdata(scores).tolist(), strict=True))  # 1 is the least likely of those ranked
    return {
        **_set_metrics(claimed, wanted),
        "recall_at_n": _recall_at_n(ranks, wanted),
        "auc": _auc(np.array([ranks.get(int(token), 0.0) for token in ordinary]), [int(t) in wanted for t in ordinary]),
        "token_chance": Sample([len(wanted)], [len(ordinary)]),
    }


def _set_metrics(claimed: set[int], wanted: set[int]) -> dict[str, Sample]:
    units = sorted(claimed | wanted)  # all three are ratios of sums over these
    hit = [float(token in claimed and token in wanted) for token in units]
    is_claimed = [float(token in claimed) for token in units]
    is_wanted = [float(token in wanted) for token in units]
    return {
        "token_precision": Sample(hit, is_claimed),
        "token_recall": Sample(hit, is_wanted),
        "token_f1": Sample([2 * h for h in hit], [c + w for c, w in zip(is_claimed, is_wanted, strict=True)]),
    }


def _recall_at_n(ranks: dict[int, float], wanted: set[int]) -> Sample:
    ordered = sorted(ranks.values(), reverse=True)
    count = len(wanted)
    if len(ordered) <= count:
        return Sample([float(token in ranks) for token in sorted(wanted)], [1.0] * count)
    cut = ordered[count - 1]
    above = sum(rank > cut for rank in ordered)
    share = (count - above) / sum(rank == cut for rank in ordered)
    found = [1.0 if ranks.get(token, 0.0) > cut else share * (ranks.get(token, 0.0) == cut) for token in sorted(wanted)]
    return Sample(found, [1.0] * count)


def _auc(ranks: np.ndarray, positive: Sequence[bool]) -> Sample:
    """One unit for each true token: the share of the others that it beats, ties by half."""
    chosen = np.asarray(positive)
    others = np.sort(ranks[~chosen])
    if not len(others):
        return Sample([0.5], [1.0])
    below = np.searchsorted(others, ranks[chosen], side="left")
    not_above = np.searchsorted(others, ranks[chosen], side="right")
    return Sample(((below + not_above) / (2 * len(others))).tolist(), [1.0] * int(chosen.sum()))
