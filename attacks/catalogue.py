"""All attacks by name, what each is for, and which of them an audit runs by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from zkaudit.attacks.attack import Attack
from zkaudit.attacks.controls import LanguageModelOnly, RandomTokens
from zkaudit.attacks.dager import Dager, DagerOptions
from zkaudit.attacks.extraction import Extraction
from zkaudit.attacks.imprint import Imprint
from zkaudit.attacks.matching.dlg import DLG
from zkaudit.attacks.matching.lamp import LAMP
from zkaudit.attacks.matching.tag import TAG
from zkaudit.attacks.oracle import OracleOrder, OracleVerify
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.recit.recover import Recit, RecitOptions
from zkaudit.attacks.record_pursuit import RecordPursuit
from zkaudit.attacks.span_test import SpanTest, StaticSpanTest
from zkaudit.attacks.threat import Capability
from zkaudit.attacks.token_set import TokenSet

Role = Literal["attack", "control", "oracle"]


@dataclass(frozen=True)
class Entry:
    """`make` takes a seed; `auto` says whether an audit runs it without being asked to."""

    role: Role
    summary: str
    make: Callable[[int], Attack]
    auto: bool = True


ATTACKS: dict[str, Entry] = {
    "token_set": Entry("attack", "rows of trained embeddings", lambda _: TokenSet()),
    "span_test": Entry("attack", "tokens in the span of the update, with p-values", lambda _: SpanTest()),
    "span_test_static": Entry("attack", "the same below a fixed distance", lambda _: StaticSpanTest()),
    "pursuit": Entry("attack", "sparse pursuit, beyond the rank of the update", lambda _: Pursuit()),
    "record_pursuit": Entry("attack", "whole records, beyond the rank of the update", lambda _: RecordPursuit()),
    "dager": Entry("attack", "search for whole records, calibrated", lambda seed: Dager(DagerOptions(seed=seed))),
    "dager_published": Entry(
        "attack",
        "the same with the published thresholds",
        lambda seed: Dager(DagerOptions(setting="published", combinations=20_000, seed=seed)),
    ),
    "dlg": Entry("attack", "gradient matching", lambda seed: DLG(seed=seed), False),
    "tag": Entry("attack", "gradient matching by L2 and L1", lambda seed: TAG(seed=seed), False),
    "lamp": Entry("attack", "gradient matching with a language model", lambda seed: LAMP(seed=seed), False),
    "extraction": Entry("attack", "values written by the updated model", lambda _: Extraction()),
    "recit": Entry("attack", "poisoned base, token filter, pairing, values", lambda _: Recit(tokens_from=Pursuit())),
    "recit_clean": Entry(
        "attack", "the same on a clean base", lambda _: Recit(RecitOptions(poisoned=False), tokens_from=Pursuit())
    ),
    "imprint": Entry("attack", "reads what an imprinted base wrote into bottleneck adapters", lambda _: Imprint(), False),
    "lm_only": Entry("control", "what the base model writes without the update", LanguageModelOnly),
    "random": Entry("control", "tokens in random order", RandomTokens),
}


# Upper bounds, told the true token ids by the scorer's side; they run beside DAGER.
ORACLES: dict[str, Callable[[Sequence[Sequence[int]]], Attack]] = {
    "oracle_order": lambda truth: OracleOrder(truth),
    "oracle_verify": lambda truth: OracleVerify(truth),
}


def chosen(names: tuple[str, ...], capabilities: Capability) -> list[str]:
    """Names of attacks in the catalogue's order; "auto" stands for those that run by themselves under these capabilities."""
    wanted = set(names)
    if "auto" in wanted:
        wanted |= {name for name, entry in ATTACKS.items() if entry.auto and entry.make(0).needs in capabilities}
    wanted |= {name for name, entry in ATTACKS.items() if entry.role == "control"}
    return [name for name in ATTACKS if name in wanted]
