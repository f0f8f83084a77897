"""Near-duplicate removal by MinHash: sketches, buckets, connected components, one record kept of each.

    J(a, b) = |A & B| / |A | B|        A, B sets of n-grams;   b bands of r numbers share a bucket with chance 1 - (1 - J^r)^b

As SlimPajama was made: text in NFC, lower case, without punctuation, runs of space as one; documents under 200 characters
dropped; 13-grams of characters; 128 permutations; threshold 0.8; pairs found in a bucket are joined, and of each component one
is kept, here the lowest id. "global" looks across all sources, "local" inside each (dedup_study.py compares them). Shen et al.
2023, arXiv 2309.10818. datasketch makes the sketches and picks bands and rows, 9 of 13 for these options.

The threshold is soft: with 9 x 13 a pair is found with chance .08 at J = .7, .40 at .8, .69 at .85, .93 at .9 and 1.0 at .95
(`hit_probability`), so most pairs just above .8 stay.

Everything is whole numbers drawn from the run's seed: who has the records computes the same choice. Sketches made with a public
seed can be tried against guessed records; between parties, use a `key` that they share and reveal only what is dropped."""

from __future__ import annotations

import hashlib
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="minhash-dedup",
    title="Global near-duplicate removal by MinHash",
    paper="Shen et al. 2023 (SlimPajama-DC), arXiv 2309.10818",
    where="zkaudit.training.filters.minhash.deduplicate",
    changes=("data", "robustness"),
    effect="RedPajama shrinks from 1210 to 627 billion tokens, and a model trained on it is better at equal tokens.",
    library="datasketch makes sketches and buckets; components, the rule of what is kept and the study are ours",
    provable="Kept ids are recomputed from the records and the seed; that no near-duplicate is left is not shown.",
    server_sees="Fewer repetitions of a record over training, so less is memorised: a gain for privacy.",
    use="""
from zkaudit.training.filters.minhash import DedupOptions, deduplicate

found = deduplicate(texts, sources, run_seed="7")  # DedupOptions(scope="local") looks inside each source only
dataset = [dataset[i] for i in found.kept]  # found.digest() belongs to the run's record
print(found.dropped)  # by source: which copy stays changes the mixture
""",
    avoid="data whose repetitions are wanted, such as code licences or upsampled sources; pairs just above the threshold stay",
    binding="replayable",
)

UNITS = ("characters", "words")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class DedupOptions:
    """`shortest`: characters of a normalised document, shorter ones are dropped; `unit`: what an n-gram is of; `key`: secret
    bytes (up to 64) for the hash, so that sketches tell nothing to who lacks it."""

    scope: str = "global"
    threshold: float = 0.8
    ngram: int = 13
    permutations: int = 128
    shortest: int = 200
    unit: str = "characters"
    key: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if self.scope not in ("global", "local"):
            raise TrainingError(f"scope = {self.scope!r} must be 'global' or 'local'")
        if self.unit not in UNITS:
            raise TrainingError(f"unit = {self.unit!r} must be one of {', '.join(UNITS)}")
        if not 0 < self.threshold < 1 or self.ngram < 1 or self.permutations < 2 or self.shortest < 0 or len(self.key) > 64:
            raise TrainingError(
                "deduplication needs a threshold between 0 and 1, an ngram of at least 1, two permutations or more, "
                "shortest of at least 0 and a key of at most 64 bytes"
            )


@dataclass(frozen=True)
class Deduplicated:
    """`kept` ids, ascending; `component` (n,): the lowest id each record is joined with, -1 if it was too short; `dropped`:
    near-duplicates by source, and `short` the documents that were too short by source; `bands` of `rows` numbers."""

    kept: tuple[int, ...]
    component: tuple[int, ...]
    dropped: dict[str, int]
    short: dict[str, int]
    bands: int
    rows: int

    def digest(self) -> str:
        """SHA-256 of the components, in hexadecimal."""
        numbers = b"".join(number.to_bytes(8, "little", signed=True) for number in self.component)
        return hashlib.sha256(b"zkaudit components" + numbers).hexdigest()


def deduplicate(
    texts: Sequence[str], sources: Sequence[str] | None = None, *, run_seed: str, options: DedupOptions = DedupOptions()
) -> Deduplicated:
    """Which of `texts` to keep; `sources` (n,) name where each comes from. TrainingError for lists of different lengths."""
    names = ["all"] * len(texts) if sources is None else list(sources)
    if len(names) != len(texts):
        raise TrainingError(f"there are {len(texts)} texts, but sources of {len(names)}")
    datasketch = _datasketch()
    seed = derive_seed(run_seed, "filters.minhash", 0) % (1 << 32)
    parents: dict[int, int] = {}
    indexes: dict[str, Any] = defaultdict(lambda: _index(datasketch, options))
    for number, text in enumerate(texts):
        cleaned = normalised(text)
        if len(cleaned) < options.shortest:
            continue
        sketch = _sketch(datasketch, cleaned, seed, options)
        index = indexes[names[number] if options.scope == "local" else ""]
        parents[number] = number
        for other in index.query(sketch):
            _join(parents, number, other)
        index.insert(number, sketch)
    component = tuple(_root(parents, number) if number in parents else -1 for number in range(len(texts)))
    kept = tuple(number for number, root in enumerate(component) if number == root)
    dropped = Counter(names[number] for number, root in enumerate(component) if root not in (-1, number))
    short = Counter(names[number] for number, root in enumerate(component) if root == -1)
    shape = _index(datasketch, options)
    return Deduplicated(kept, component, dict(dropped), dict(short), shape.b, shape.r)


def normalised(text: str) -> str:
    """The text as it is compared: NFC, lower case, no ASCII punctuation, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).lower().translate(_PUNCTUATION).split())


def ngrams(cleaned: str, options: DedupOptions) -> set[str]:
    """The set A of a normalised text; the text itself if it is shorter than an n-gram."""
    units = cleaned.split() if options.unit == "words" else cleaned
    glue = " " if options.unit == "words" else ""
    return {glue.join(units[i : i + options.ngram]) for i in range(max(1, len(units) - options.ngram + 1))}


def hit_probability(jaccard: float, bands: int, rows: int) -> float:
    """The chance that two records of this similarity share a bucket."""
    return float(1 - (1 - jaccard**rows) ** bands)


def _sketch(datasketch: Any, cleaned: str, seed: int, options: DedupOptions) -> Any:
    def hashed(gram: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(gram, digest_size=4, key=options.key).digest(), "little")

    # the scheme is named, as datasketch's default may change and sketches with it
    sketch = datasketch.MinHash(options.permutations, seed=seed, hashfunc=hashed, scheme="affine32")
    sketch.update_batch([gram.encode("utf-8", "surrogatepass") for gram in sorted(ngrams(cleaned, options))])
    return sketch


def _index(datasketch: Any, options: DedupOptions) -> Any:
    return datasketch.MinHashLSH(threshold=options.threshold, num_perm=options.permutations)


def _datasketch() -> Any:
    try:
        return import_module("datasketch")
    except ImportError as error:
        raise TrainingError("near-duplicate removal needs datasketch 2 or later: pip install 'zkaudit[data]'") from error


def _root(parents: dict[int, int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]  # halve the way for the next one
        number = parents[number]
    return number


def _join(parents: dict[int, int], one: int, other: int) -> None:
    """The lower root stays root, so that a component is named by its lowest id."""
    low, high = sorted((_root(parents, one), _root(parents, other)))
    parents[high] = low
