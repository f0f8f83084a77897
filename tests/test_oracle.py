"""Oracles are told the truth, say so, and bound what DAGER can reach."""

from __future__ import annotations

import pytest
from dager_cases import Case, case, gpt2

from zkaudit.attacks.dager import Dager, DagerOptions
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.oracle import OracleOrder, OracleVerify


def test_true_tokens_are_put_in_order() -> None:
    recovery = OracleOrder(gpt2().truth).run(gpt2().observation)
    assert gpt2().exact(recovery) == 1.0


def test_true_tokens_of_a_model_without_positions_are_put_in_order() -> None:
    some = case("nano-llama", 2, 14)
    assert some.exact(OracleOrder(some.truth).run(some.observation)) == 1.0


def test_true_tokens_of_an_encoder_are_put_in_order() -> None:
    some = case("micro-bert", 2, 8)
    assert some.exact(OracleOrder(some.truth).run(some.observation)) == 1.0


@pytest.mark.parametrize("setting", ["calibrated", "published"])
def test_true_sequences_pass_within_the_width_and_fail_beyond(setting: str) -> None:
    def share(some: Case) -> float:
        return float(OracleVerify(some.truth, DagerOptions(setting)).run(some.observation).evidence["share"])  # type: ignore[arg-type]

    assert share(gpt2()) == 1.0
    assert share(case("nano-gpt2", 8, 30)) == 0.0


def test_verification_passes_what_search_cannot_find() -> None:
    """In low precision the truth passes, but so do others: verifying is not searching."""
    some = gpt2("bfloat16")
    verified = float(OracleVerify(some.truth).run(some.observation).evidence["share"])
    assert verified == 1.0 > some.exact(Dager().run(some.observation))


def test_altered_truth_does_not_pass() -> None:
    altered = [[*ids[:5], (ids[5] + 1) % 2000, *ids[6:]] for ids in gpt2().truth]
    recovery = OracleVerify(altered).run(gpt2().observation)
    assert recovery.sequences == []


def test_names_say_that_they_are_oracles() -> None:
    for oracle in (OracleOrder([[1]]), OracleVerify([[1]])):
        assert oracle.name.startswith("oracle: ")
        assert oracle.run.__doc__


def test_oracle_without_truth_is_refused() -> None:
    with pytest.raises(AuditError, match="true sequences"):
        OracleOrder([])
