"""A cheap text classifier, records that are wanted against others: hashed word n-grams and logistic regression.

    score(x) = log p(wanted | x) - log p(other | x)        from counts of words and pairs of words, of length 1

It stands where pipelines of web text have fastText; fitting is scikit-learn's SGDClassifier, whose result depends on the seed
alone. The larger class is sampled down to the smaller, so that a score of 0 is even odds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.training.errors import TrainingError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassifierOptions:
    """`ngrams`: the shortest and the longest run of words; `features`: the table they are hashed into; `passes` of them."""

    ngrams: tuple[int, int] = (1, 2)
    features: int = 1 << 18
    passes: int = 5
    penalty: float = 1e-5


class TextClassifier:
    """Fitted to two lists of texts; TrainingError if either is empty or scikit-learn is not installed."""

    def __init__(
        self, wanted: Sequence[str], others: Sequence[str], seed: int, options: ClassifierOptions = ClassifierOptions()
    ) -> None:
        if not wanted or not others:
            raise TrainingError(f"a classifier needs texts of both kinds: {len(wanted)} are wanted, {len(others)} are others")
        self._vectors = hashed_words(options.ngrams, options.features)
        texts, labels = _balanced(wanted, others, np.random.default_rng(seed))
        from sklearn.linear_model import SGDClassifier

        self._model: Any = SGDClassifier(
            loss="log_loss", alpha=options.penalty, max_iter=options.passes, tol=None, random_state=seed % (1 << 32)
        )
        self._model.fit(self._vectors.transform(texts), labels)

    def score(self, texts: Sequence[str]) -> Floats:
        """Log-odds (n,) of being wanted."""
        return np.asarray(self._model.decision_function(self._vectors.transform(list(texts))), np.float64)


def hashed_words(ngrams: tuple[int, int], features: int) -> Any:
    """scikit-learn's vectoriser of lower-cased word n-grams into `features` columns, rows of length 1."""
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise TrainingError("classifying texts needs scikit-learn: pip install 'zkaudit[train]'") from error
    return HashingVectorizer(ngram_range=ngrams, n_features=features, alternate_sign=False, token_pattern=r"(?u)\b\w+\b")


def _balanced(wanted: Sequence[str], others: Sequence[str], random: np.random.Generator) -> tuple[list[str], NDArray[np.int64]]:
    count = min(len(wanted), len(others))
    texts = [side[i] for side in (wanted, others) for i in np.sort(random.permutation(len(side))[:count])]
    return texts, np.repeat(np.array([1, 0], np.int64), count)
