"""A byte-level BPE tokenizer trained here, on Python's own documentation and on synthetic records. Digits stay single."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from transformers import PreTrainedTokenizerFast

from zkaudit.attacks.lab.records import synthetic

SPECIAL = ("<pad>", "<eos>", "<unk>", "<cls>", "<sep>", "<mask>")


@cache
def prose() -> tuple[str, ...]:
    """Paragraphs of English that every Python has: the text behind `help()`."""
    from pydoc_data.topics import topics

    return tuple(part.strip() for text in topics.values() for part in text.split("\n\n") if len(part) > 80)


@cache
def tokenizer(size: int, seed: int = 0) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `size` tokens; its records come from a seed that no split of an audit uses."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts: Iterable[str] = (*prose(), *(record.text for record in synthetic(2000, 1_000_003 + seed)))
    core.train_from_iterator(texts, trainer)
    names = dict(zip(("pad", "eos", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, **{f"{name}_token": token for name, token in names.items()})
