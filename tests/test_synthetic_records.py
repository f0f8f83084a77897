"""Synthetic records: a seed's are the same on every day."""

from __future__ import annotations

from zkaudit.attacks.lab.records import synthetic


def test_days_of_birth_do_not_move_with_today() -> None:
    born = [record.pii["birth"] for record in synthetic(3, 7, kinds=("birth",))]
    assert born == ["1983-06-03", "1962-08-06", "1938-08-21"]
