"""The leakage meter: what an update will show of the records behind it, told from model and settings before any attack runs.

One number predicts most: n/K, the token positions behind an update over the directions it shows of one input (stacked over
modules that read the same input, and over rounds on the same records). Regimes of such a group, of dimension d:

    exact   n <= K         the rows span the inputs: each candidate lies in the span or does not
    soft    n <= c d       the rows are sparse combinations of candidates, which pursuit finds
    weak    n >  c d       true inputs lean towards the rows, and little is left of it
    set     any n          the tensor has a row a token, see `taps.tokens`
    none                   no span; gradient matching and memorisation remain

c is 1/4 for K = 1, 1/2 below K = 8 and 3/4 from there, where an input depends on the token alone; 1/8, 1/4 below K = 16 and 1/2
from there, where it depends on the position too. That is where recalls near 1 were measured, in full precision without dropout
on models of width 128 and 256; for others, and for inputs that depend on more, it is inferred.
K is at most d - 2: of a larger subspace a random direction is
too near (Beta law, see `spans`). AdamW's steps, and more than one step, bend the rows: exact becomes soft there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.preflight import Finding, findings
from zkaudit.attacks.sites import Dependence
from zkaudit.attacks.taps import Group, Tap, TokenLeak, find, quiet, token_leaks
from zkaudit.attacks.taps import groups as join
from zkaudit.attacks.taps.quiet import Quiet
from zkaudit.attacks.twin import groups_of_plan

Regime = Literal["exact", "soft", "weak", "set", "none"]
Verdict = Literal["exposed", "partly exposed", "weakly exposed", "memorisation only", "unknown"]
REGIMES: tuple[Regime, ...] = ("set", "exact", "soft", "weak", "none")
DEPENDS = {
    Dependence.TOKEN: "token",
    Dependence.POSITION: "token and position",
    Dependence.PREFIX: "prefix",
    Dependence.SEQUENCE: "sequence",
}
START = {"LoRA A": ("lora_A", "lora_B"), "AdaLoRA A": ("lora_A", "lora_E"), "AdaLoRA B": ("lora_B", "lora_E")}
# From this K on, pursuit finds inputs up to this share of d: where they depend on the token alone, and on its position too.
SOFT = {Dependence.TOKEN: ((8, 0.75), (2, 0.5), (1, 0.25)), Dependence.POSITION: ((16, 0.5), (2, 0.25), (1, 0.125))}


@dataclass(frozen=True)
class TensorRow:
    """One trainable tensor. `group` numbers the group it feeds; `capacity` is the rank it can show, 0 or 1 without a span."""

    name: str
    shape: tuple[int, ...]
    kind: str
    why: str
    depends_on: str
    capacity: int
    group: int | None
    regime: Regime


@dataclass(frozen=True)
class GroupRow:
    """Tensors that show the same inputs: `usable` is K after stacking rounds and capping, `dimension` is d."""

    site: str
    kinds: tuple[str, ...]
    tensors: tuple[str, ...]
    view: str
    depends_on: str
    dimension: int
    capacity: int
    usable: int
    tokens: int
    ratio: float | None
    regime: Regime


@dataclass(frozen=True)
class MeterReport:
    """Plain data: the verdict with its reason, groups, tensors and findings."""

    verdict: Verdict
    reason: str
    tokens: int
    cohort: int
    rounds: int
    groups: tuple[GroupRow, ...]
    tensors: tuple[TensorRow, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a terminal; rows that differ only in the layer are one."""
        rounds = f", {self.rounds} rounds on the same records" if self.rounds > 1 else ""
        clients = f" in a sum over {self.cohort} clients" if self.cohort > 1 else ""
        lines = [f"{self.verdict}: {self.reason}", f"{self.tokens} tokens behind an update{clients}{rounds}", ""]
        lines += _table(
            ("inputs of", "depends on", "shown by", "d", "K", "n/K", "regime"),
            [(g.site, g.depends_on, _counted(g.kinds), g.dimension, g.usable, _number(g.ratio), g.regime) for g in self.groups],
        )
        lines += _table(
            ("trainable tensor", "shape", "kind", "rank", "regime"),
            [(t.name, "x".join(map(str, t.shape)), t.kind, t.capacity, t.regime) for t in self.tensors],
        )
        for finding in self.findings:
            lines.append(f"{finding.severity}: {finding.sentence}" + (f". Remedy: {finding.remedy}" if finding.remedy else ""))
        return lines


def measure(model: PublicModel, tokens: int, federated: FederatedSettings | None = None) -> MeterReport:
    """Measure a model whose clients train on `tokens` token positions for one update.

    Without settings: one client and one round whose adapters no longer are at their start. A model on the meta device is
    measured too, by a stand-in of its first layers. AuditError if nothing is trained or `tokens` is not positive.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise AuditError(f"tokens is {tokens!r}; an update comes from a positive number of them")
    if not model.trainable():
        raise AuditError("the model has no trainable tensor, so no update can leak anything")
    taps, leaks = find(model), token_leaks(model)
    groups = groups_of_plan(model, taps) if model.is_plan else join(model, taps)
    muted = [tap for tap in taps if _mute(model, tap, federated)]
    mute = {tap.parameters[0] for tap in muted}
    rows = [_group_row(group, tokens, federated, mute) for group in groups]
    tensors = _tensor_rows(model, taps, groups, rows, leaks, mute)
    told = {name for tap in taps for name in tap.parameters} | {leak.parameter for leak in leaks}
    silent = [quiet(model, name) for name in model.trainable() if name not in told]
    exact = [row.usable if row.regime == "exact" else 0 for row in rows]
    verdict, reason = _verdict(rows, leaks, silent, _bent(federated))
    cohort, rounds = (federated.cohort, _rounds(federated)) if federated else (1, 1)
    found = findings(model, tokens, federated, groups, exact, muted, leaks, silent)
    return MeterReport(verdict, reason, tokens, cohort, rounds, tuple(rows), tuple(tensors), tuple(found))


def _rounds(federated: FederatedSettings) -> int:
    return federated.rounds if federated.same_batch else 1


def _many_steps(federated: FederatedSettings) -> bool:
    return federated.local_steps * federated.local_epochs > 1


def _mute(model: PublicModel, tap: Tap, federated: FederatedSettings | None) -> bool:
    """Whether the tap shows nothing in the one round there is: the factor that the gradient is multiplied with is zero."""
    if (
        federated is None
        or federated.rounds > 1
        or federated.warm_up_steps
        or federated.local_steps * federated.local_epochs > 1
    ):
        return False
    own, other = START.get(tap.kind.removesuffix(" (DoRA)"), ("adapter_down", "adapter_up"))
    name = tap.parameters[0].replace(own, other)
    factor = None if name == tap.parameters[0] else dict(model.module.named_parameters()).get(name)
    return factor is not None and factor.device.type != "meta" and not bool(factor.any())


def _group_row(group: Group, tokens: int, federated: FederatedSettings | None, mute: set[str]) -> GroupRow:
    heard = [tap for tap in group.taps if tap.parameters[0] not in mute]
    capacity = sum(tap.capacity for tap in heard)
    n = tokens * (federated.cohort if federated else 1)
    usable = max(0, min(capacity * (_rounds(federated) if federated else 1), group.dimension - 2))
    sparse = soft_limit(usable, group.dimension, group.dependence)
    regime: Regime = "none" if usable == 0 else "exact" if n <= usable else "soft" if n <= sparse else "weak"
    if regime == "exact" and _bent(federated):
        regime = "soft"
    return GroupRow(
        group.site.module,
        tuple(tap.kind for tap in group.taps),
        tuple(dict.fromkeys(name for tap in group.taps for name in tap.parameters)),
        group.taps[0].space,
        DEPENDS[group.dependence],
        group.dimension,
        capacity,
        usable,
        n,
        n / usable if usable else None,
        regime,
    )


def _bent(federated: FederatedSettings | None) -> bool:
    """Whether what is sent is a gradient's rows no more."""
    if federated is None:
        return False
    return (federated.sends == "delta" and federated.optimizer == "adamw") or _many_steps(federated)


def soft_limit(usable: int, dimension: int, depends: Dependence) -> int:
    """The most inputs that pursuit finds among combinations of rank `usable` in this dimension."""
    shares = SOFT.get(depends, SOFT[Dependence.POSITION])
    return int(next((share for least, share in shares if usable >= least), 0.0) * dimension)


def _tensor_rows(
    model: PublicModel,
    taps: Sequence[Tap],
    groups: Sequence[Group],
    rows: Sequence[GroupRow],
    leaks: Sequence[TokenLeak],
    mute: set[str],
) -> list[TensorRow]:
    tap_of = {name: tap for tap in reversed(taps) for name in tap.parameters}
    group_of = {name: i for i in reversed(range(len(groups))) for tap in groups[i].taps for name in tap.parameters}
    leak_of = {leak.parameter: leak for leak in leaks}
    found = []
    for name, parameter in model.trainable().items():
        shape = tuple(parameter.shape)
        group = group_of.get(name)
        if name in leak_of:
            leak = leak_of[name]
            why = f"shows the set of {leak.shows}: {leak.explanation}"
            depends = DEPENDS[groups[group].dependence] if group is not None else "token"
            capacity = tap_of[name].capacity if name in tap_of else 0
            found.append(TensorRow(name, shape, leak.kind, why, depends, capacity, group, "set"))
        elif group is not None:
            tap = tap_of[name]
            why = tap.explanation + ("; this round's start is zero: nothing in this round" if name in mute else "")
            regime: Regime = "none" if name in mute else rows[group].regime
            found.append(TensorRow(name, shape, tap.kind, why, rows[group].depends_on, tap.capacity, group, regime))
        elif name in tap_of:
            why = "reads one vector for a whole record: at most as many inputs as records, none of them a token's"
            found.append(TensorRow(name, shape, "pooled weight", why, DEPENDS[Dependence.SEQUENCE], 0, None, "none"))
        else:
            silent = quiet(model, name)
            found.append(TensorRow(name, shape, silent.kind, silent.explanation, "", silent.capacity, None, "none"))
    return found


def _verdict(rows: Sequence[GroupRow], leaks: Sequence[TokenLeak], silent: Sequence[Quiet], bent: bool) -> tuple[Verdict, str]:
    whole = [leak for leak in leaks if leak.listed is None]
    if whole:
        return "exposed", f"'{whole[0].parameter}' names the tokens of any number of records"
    early = [row for row in rows if row.depends_on in ("token", "token and position")]
    for some, open_ in ((early, True), ([row for row in rows if row not in early], False)):
        best = min((row for row in some if row.regime == "exact"), key=lambda row: row.ratio or 0.0, default=None)
        if best is not None:
            text = f"the inputs of '{best.site}' depend on the {best.depends_on} and n/K is {_number(best.ratio)}"
            if open_:
                return "exposed", f"{text}: each token can be tested exactly"
            return "partly exposed", f"{text}: guesses of whole texts can be tested exactly, tokens alone cannot"
    for row in early:
        if row.regime == "soft":
            text = f"the inputs of '{row.site}' depend on the {row.depends_on} and n/K is {_number(row.ratio)}"
            if bent:
                return "partly exposed", f"{text}: tokens can be ranked, not tested"
            return "exposed", f"{text}, n/d {row.tokens / row.dimension:.2f}: sparse pursuit can find the tokens"
    if leaks:
        return "partly exposed", f"'{leaks[0].parameter}' tells which of the tokens that it trains were there"
    if any(row.regime != "none" for row in rows):
        return "weakly exposed", "spans are shared by so many tokens, or reached by so many texts, that little is left to rank"
    if any(not each.derived for each in silent):
        return "unknown", "some trainable tensors are of kinds that no tap or derivation covers"
    return "memorisation only", "no trainable tensor shows a span of inputs: gradient matching and memorisation are left"


def _counted(kinds: Sequence[str]) -> str:
    return ", ".join(kind if count == 1 else f"{count} x {kind}" for kind, count in Counter(kinds).items())


def _number(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Columns with a head; rows that are the same up to numbers in the first column are one, with their count."""
    merged: Counter[tuple[str, ...]] = Counter()
    for first, *rest in rows:
        short = re.sub(r"^base_model\.(model\.)?", "", str(first))
        merged[(re.sub(r"(?<=\.)\d+(?=\.)", "*", short), *map(str, rest))] += 1
    body = [(f"{row[0]} ({count})" if count > 1 else row[0], *row[1:]) for row, count in merged.items()]
    if not body:
        return
    widths = [max(len(row[i]) for row in (tuple(head), *body)) for i in range(len(head))]
    for row in (tuple(head), *body):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield ""
