"""Quality filter: keep records that one of several scorers finds good, after rules on their shape.

    kept = { record : tokens <= 6000, images < 10, and score_s(record) >= threshold_s for any scorer s }   (or for all of them)

The data of Open-Qwen2VL, Wang et al. 2025, arXiv 2504.00595: image-text pairs chosen by CLIP-like networks (DFN) and by
MLM-Filter, a fine-tuned model that rates how well a caption is understood from 0 to 100 and keeps 85 and more; interleaved
documents that are longer than 6000 tokens or have ten images or more are dropped. A scorer is a list of numbers, whatever made
them. Without one, `reference_scores` rates texts by how much they read like a reference, with the classifier beside this file.

A score favours what its maker favoured: what it costs in length and in sources is counted in `Filtered.dropped`, and the kept
mixture is worth a look before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zkaudit.training.errors import TrainingError
from zkaudit.training.filters.classifier import TextClassifier
from zkaudit.training.filters.ranking import fixed_point, keep_best
from zkaudit.training.method import Method
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="quality-filter",
    title="Quality filter",
    paper="Wang et al. 2025 (Open-Qwen2VL), arXiv 2504.00595; MLM-Filter: Wang et al. 2024, arXiv 2403.02677",
    where="zkaudit.training.filters.quality.quality_filter",
    changes=("data", "speed"),
    effect="A 2B model on 29 million filtered pairs passes Qwen2-VL-2B on four benchmarks with 0.36% of its tokens.",
    library="any scorer's numbers go in; the default classifier is scikit-learn's, the choice is ours",
    provable="The choice follows from committed scores and public thresholds; what a scorer computes is not proved.",
    server_sees="Gradients of fewer records, all of a kind that the public thresholds describe.",
    use="""
from zkaudit.training.filters.quality import Bar, quality_filter

found = quality_filter({"understanding": Bar(ratings, threshold=85), "dfn": Bar(clip_scores, keep=0.15)}, tokens=lengths)
dataset = [dataset[i] for i in found.kept]
""",
    avoid="small pools, and scorers that were trained on the tasks the model is judged by: the gain is then the scorer's",
    binding="replayable",
)


@dataclass(frozen=True, eq=False)
class Bar:
    """A scorer's numbers (n,), higher is better, and what passes: `threshold` and more, or the best `keep` of all."""

    scores: ArrayLike
    threshold: float | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.keep is None):
            raise TrainingError("a scorer's bar is either a threshold or the share to keep")

    def passing(self) -> set[int]:
        """Ids of records that pass."""
        rounded = fixed_point(self.scores)
        if self.threshold is None:
            return set(keep_best(rounded, self.keep or 0.0).ids)
        return set(np.flatnonzero(rounded >= fixed_point([self.threshold])[0]).tolist())


@dataclass(frozen=True)
class QualityOptions:
    """`combine`: "any" scorer's pass is enough, or "all" are needed. None turns a rule of shape off."""

    combine: str = "any"
    most_tokens: int | None = 6000
    most_images: int | None = 9

    def __post_init__(self) -> None:
        if self.combine not in ("any", "all"):
            raise TrainingError(f"combine = {self.combine!r} must be 'any' or 'all'")


@dataclass(frozen=True)
class Filtered:
    """Ids that are kept, ascending, and how many records each rule dropped: of shape first, scorers last."""

    kept: tuple[int, ...]
    dropped: dict[str, int]


def quality_filter(
    bars: Mapping[str, Bar],
    tokens: Sequence[int] | None = None,
    images: Sequence[int] | None = None,
    options: QualityOptions = QualityOptions(),
) -> Filtered:
    """Apply the rules of shape to `tokens` and `images` (n,) of the records, then the scorers' bars.

    TrainingError without a bar, and for lists of different lengths."""
    if not bars:
        raise TrainingError("a quality filter needs the scores of at least one scorer")
    lengths = {name: len(np.atleast_1d(np.asarray(bar.scores))) for name, bar in bars.items()}
    lengths |= {name: len(given) for name, given in (("tokens", tokens), ("images", images)) if given is not None}
    if len(set(lengths.values())) != 1:
        raise TrainingError(f"every list must have a number for each record, but lengths are {lengths}")
    left = set(range(next(iter(lengths.values()))))
    dropped: dict[str, int] = {}
    for name, given, most in (("tokens", tokens, options.most_tokens), ("images", images, options.most_images)):
        if given is not None and most is not None:
            small = {i for i in left if given[i] <= most}
            dropped[name], left = len(left - small), small
    passing = [bar.passing() for bar in bars.values()]
    good = set.union(*passing) if options.combine == "any" else set.intersection(*passing)
    dropped["scorers"] = len(left - good)
    return Filtered(tuple(sorted(left & good)), dropped)


def reference_scores(texts: Sequence[str], reference: Sequence[str], run_seed: str) -> NDArray[np.float64]:
    """How much each text (n,) reads like the reference, in log-odds against the pool itself."""
    return TextClassifier(reference, texts, derive_seed(run_seed, "filters.quality", 0)).score(texts)
