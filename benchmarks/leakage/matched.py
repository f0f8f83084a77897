"""Gradient matching on records short enough for it: DLG, TAG and LAMP, in the order that their papers claim."""

from __future__ import annotations

from leakage.cases import Setting
from leakage.rows import Plan, Row
from leakage.spans import FULL, cases
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.matching.dlg import DLG
from zkaudit.attacks.matching.lamp import LAMP
from zkaudit.attacks.matching.tag import TAG

RESTARTS = 2


def matching(plan: Plan) -> list[Row]:
    """Two records of up to 10 tokens, the gradient of all weights; the same steps and restarts for each."""
    federated = FederatedSettings(batch=2, longest=10, dropout=False)
    observed = cases(Setting("nano-gpt2", FULL, None, federated, started=False), plan)
    steps = 30 if plan.quick else 100
    found: dict[str, list[float]] = {}
    rows = []
    for kind in (DLG, TAG, LAMP):
        options = {"steps": steps, "restarts": RESTARTS, "candidates": 8}
        scores = [one.attack(kind(seed=number, **options))[1] for number, one in enumerate(observed)]
        name = kind.__name__
        found[name] = [score.value("position_accuracy") for score in scores]
        rows.append(Row(f"tokens in their place, {name}", "DLG, TAG, LAMP in rising order", found[name]))
        rows.append(Row(f"token recall, {name}", "reported", [score.value("token_recall") for score in scores]))
    for one, other in (("TAG", "DLG"), ("LAMP", "TAG")):
        gain = [a - b for a, b in zip(found[one], found[other], strict=True)]
        rows.append(Row(f"tokens in their place, {one} less {other}", "at least 0", gain, 0.0))
    return rows
