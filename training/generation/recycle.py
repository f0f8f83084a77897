"""Recycling: documents that a filter would throw away are rewritten, and the best rewrites are kept (REWIRE, Nguyen et al.
2025, arXiv 2506.04689).

A generator is asked to say what a document is for, to plan, and to write it anew. A rewrite is kept if

    score(rewrite) - score(document) >= min_gain         facts(document) in the rewrite, as a part of all >= overlap

and it is among the best `keep` of all documents by score, the lower number first of equal ones. The paper keeps the best tenth
by a fastText classifier; the overlap of facts (numbers and capitalised words) is ours, against rewrites that invent. Kept
rewrites are mixed with raw text of high quality; the paper's prompt and proportion are not known to us."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Generator, Provenance, Written, sha256, write
from zkaudit.training.method import Method

METHOD = Method(
    name="recycling",
    title="REWIRE: rewriting documents that were thrown away",
    paper="Nguyen et al. 2025, arXiv 2506.04689",
    where="zkaudit.training.generation.recycle.Recycle",
    changes=("data",),
    effect="1.0, 1.3 and 2.5 points over 22 tasks at 1B, 3B and 7B parameters, against filtered web text alone.",
    library="",
    provable="Before the data are committed: hashes of document, prompt, generator, seed, rewrite and its score are bound.",
    server_sees="What training on the rewrites shows. The generator sees every document: keep it on this machine.",
    use=(
        "from zkaudit.training.generation.recycle import Recycle, RecycleOptions\n"
        "\n"
        'recycle = Recycle(LanguageModel(model, tokenizer), quality, run_seed="7f", options=RecycleOptions(keep=0.1))\n'
        "texts = [written.text for written in recycle(documents).kept]  # provenance has a line for every document"
    ),
    avoid="Private text and a generator elsewhere, and sources where wording is the matter: quotations, law, code.",
    binding="declared",
)

PROMPT = """Read the document between the lines. Say in a few words what it is for and what a reader needs from it. Plan how to
say the same better: complete, in order, in clear language, with every fact that it has and none that it has not. Then write
"{marker}" on a line of its own, and after it the improved document and nothing else.
----
{document}
----
"""


@dataclass(frozen=True)
class RecycleOptions:
    """`marker` stands before the rewrite in an answer; an answer without it is a rewrite as a whole."""

    keep: float = 0.1
    min_gain: float = 0.0
    overlap: float = 0.8
    prompt: str = PROMPT
    marker: str = "Improved document:"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1 or not 0 <= self.overlap <= 1:
            raise TrainingError(f"keep = {self.keep} must be above 0, overlap = {self.overlap} at least 0, and both at most 1")
        if "{document}" not in self.prompt:
            raise TrainingError("the prompt must have the place {document}")


@dataclass(frozen=True)
class Recycled:
    """Kept rewrites with the numbers of their documents, in the documents' order; provenance of every document's rewrite."""

    kept: list[Written]
    numbers: list[int]
    provenance: list[Provenance]


class Recycle:
    """`score` says how good a text is, higher is better. Called with documents, gives the Recycled."""

    def __init__(
        self, generator: Generator, score: Callable[[str], float], run_seed: str, options: RecycleOptions | None = None
    ) -> None:
        self.generator, self.score, self.run_seed = generator, score, run_seed
        self.options = options or RecycleOptions()

    def __call__(self, documents: Sequence[str]) -> Recycled:
        answers = write(self.generator, "recycling", self.run_seed, documents, self._prompt)
        texts = [rewrite_in(answer.text, self.options.marker) for answer in answers]
        scores = [self.score(text) for text in texts]
        good = [
            number
            for number, (document, text, score) in enumerate(zip(documents, texts, scores, strict=True))
            if score - self.score(document) >= self.options.min_gain and fact_overlap(document, text) >= self.options.overlap
        ]
        best = sorted(good, key=lambda number: (-scores[number], number))[: round(self.options.keep * len(documents))]
        provenance = [answer.provenance.judged(scores[number], number in best) for number, answer in enumerate(answers)]
        kept = [Written(texts[number], provenance[number]) for number in sorted(best)]
        return Recycled(kept, sorted(best), provenance)

    def _prompt(self, document: str) -> str:
        return self.options.prompt.replace("{marker}", self.options.marker).replace("{document}", document)


def rewrite_in(answer: str, marker: str) -> str:
    """What comes after the marker's last place."""
    return answer.rpartition(marker)[2].strip()


def facts(text: str) -> set[str]:
    """Numbers, and words with a capital that do not begin a sentence."""
    numbers = set(re.findall(r"\d+(?:[.,:]\d+)*", text))
    return numbers | set(re.findall(r"(?<![.!?:\n] )(?<!^)(?<!\n)\b[A-Z]\w+", text))


def fact_overlap(document: str, rewrite: str) -> float:
    """The part of the document's facts that the rewrite has; 1 where there are none."""
    wanted = facts(document)
    words = set(re.findall(r"\d+(?:[.,:]\d+)*|\w+", rewrite))
    return len(wanted & words) / len(wanted) if wanted else 1.0


def traced(recycled: Recycled, documents: Sequence[str]) -> bool:
    """Whether every document has its provenance, and every kept rewrite one that is kept."""
    sources = [each.source for each in recycled.provenance]
    return sources == [sha256(document) for document in documents] and all(w.provenance.kept for w in recycled.kept)
