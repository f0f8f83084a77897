"""Thinking augmented training: each document is followed by thoughts about it, and the model learns both (Wang et al. 2025,
arXiv 2509.20186).

    row = document + open + thoughts + close            ordinary next-token loss on every token, the thoughts' too

with one question to a generator a document, which sees its first 2000 words. The published runs used reasoning models of 7B and
8B, up to 8000 tokens of thoughts, temperature 0.6 and top-p 0.9, and packed rows of 8000 tokens. Thoughts make rows longer: at
an equal number of tokens a model sees fewer documents, and the generator's own cost is not in the published budgets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Generator, Written, write
from zkaudit.training.method import Method

METHOD = Method(
    name="thinking-augmentation",
    title="Thinking augmented pre-training",
    paper="Wang et al. 2025, arXiv 2509.20186",
    where="zkaudit.training.generation.thoughts.append_thoughts",
    changes=("data",),
    effect="An 8B model after 100B tokens: 43.9 on average instead of 26.2, and GSM8K 50.1 instead of 19.2.",
    library="",
    provable="Before the data are committed: hashes of document, prompt, generator, seed and thoughts are bound.",
    server_sees="Fewer documents a step at an equal number of tokens, each with a paraphrase beside it: slightly more.",
    use=(
        "from zkaudit.training.generation.thoughts import append_thoughts\n"
        "\n"
        'rows = append_thoughts(documents, LanguageModel(model, tokenizer, new=8000, temperature=0.6), run_seed="7f")\n'
        "texts = [row.text for row in rows]"
    ),
    avoid="Answers wanted without thinking aloud: they need not get better. Private text and a generator elsewhere.",
    binding="declared",
)

PROMPT = """Here is a document. Think through it aloud, step by step, as an expert would who explains to a student how each part
follows and why it is so.

{document}

Thoughts:"""


@dataclass(frozen=True)
class Tags:
    """What stands around the thoughts, how they are asked for, and how many words of a document the generator sees."""

    open: str = "\n<think>\n"
    close: str = "\n</think>"
    prompt: str = PROMPT
    words: int = 2000

    def __post_init__(self) -> None:
        if not self.open.strip() or not self.close.strip() or "{document}" not in self.prompt:
            raise TrainingError("tags must not be blank, and the prompt must have the place {document}")
        if self.words < 1:
            raise TrainingError(f"words = {self.words} must be at least 1")

    def asked(self, document: str) -> str:
        """The question about a document, which is cut after `words` words."""
        parts = re.findall(r"\s*\S+", document)
        return self.prompt.replace("{document}", "".join(parts[: self.words]) if len(parts) > self.words else document)


def append_thoughts(documents: Sequence[str], generator: Generator, run_seed: str, tags: Tags | None = None) -> list[Written]:
    """A row for each document. Blank thoughts leave it as it is, marked as not kept.

    Raises TrainingError for a document or thoughts that hold a tag: where the document ends could not be told.
    """
    tags = tags or Tags()
    for number, document in enumerate(documents):
        if tags.open.strip() in document or tags.close.strip() in document:
            raise TrainingError(f"document {number} holds the tag {tags.open.strip()!r} or {tags.close.strip()!r}")
    written = write(generator, "thinking-augmentation", run_seed, documents, tags.asked)
    return [_row(document, each, tags, number) for number, (document, each) in enumerate(zip(documents, written, strict=True))]


def apart(row: str, tags: Tags | None = None) -> tuple[str, str | None]:
    """A row's document and its thoughts, None if it has none."""
    tags = tags or Tags()
    document, found, rest = row.partition(tags.open)
    return (document, rest.removesuffix(tags.close)) if found else (row, None)


def _row(document: str, written: Written, tags: Tags, number: int) -> Written:
    thoughts = written.text.strip()
    if tags.open.strip() in thoughts or tags.close.strip() in thoughts:
        raise TrainingError(f"the thoughts about document {number} hold a tag: give the generator an end there")
    if not thoughts:
        return Written(document, written.provenance.judged(None, kept=False))
    return Written(document + tags.open + thoughts + tags.close, written.provenance)
