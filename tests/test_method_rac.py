"""RAC: rows of the model's own answers, with the reference as their target."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Ask, Rule, sha256
from zkaudit.training.objectives.rac import Rac
from zkaudit.training.objectives.rows import Pair, batch_of

RECORDS = [Pair("2+2", "4"), Pair("3+3", "6"), Pair("4+4", "8")]


def answer(ask: Ask, draws: random.Random) -> str:
    """Right for the first, wrong for the others."""
    return "4" if ask.prompt == "2+2" else f"{draws.random():.6f}"


RULE = Rule(answer, "sums")


def test_each_record_is_there_plain_and_with_the_models_own_answer() -> None:
    made = Rac("a").examples(RULE, RECORDS, round=0)
    assert made.rows[:3] == RECORDS
    assert [row.target for row in made.rows[3:]] == ["4", "6", "8"]
    assert made.rows[3].source == "2+2\n4\nCorrected: "
    for row, each in zip(made.rows[4:], made.provenance[1:], strict=True):
        own = row.source.split("\n")[1]
        assert sha256(own) == each.output
    assert [each.score for each in made.provenance] == [1.0, 0.0, 0.0]


def test_right_answers_can_be_left_out() -> None:
    made = Rac("a", keep_correct=False).examples(RULE, RECORDS, round=0)
    assert [row.target for row in made.rows] == ["4", "6", "8", "6", "8"]
    assert [each.kept for each in made.provenance] == [False, True, True]


def test_every_round_has_seeds_of_its_own() -> None:
    rounds = [Rac("a").examples(RULE, RECORDS, round=number) for number in range(3)]
    seeds = [each.seed for made in rounds for each in made.provenance]
    assert len(set(seeds)) == 9
    assert rounds[1] == Rac("a").examples(RULE, RECORDS, round=1)
    assert rounds[1].rows != rounds[0].rows


def test_the_loss_is_on_the_reference_alone() -> None:
    row = Rac("a").examples(RULE, RECORDS, round=0).rows[3]
    batch = batch_of([list(row.source.encode())], [list(row.target.encode())], pad=0, causal=True)
    assert batch["labels"][0].tolist() == [-100] * len(row.source) + [ord("4")]
    assert bytes(batch["input_ids"][0].to(torch.uint8).tolist()) == (row.source + row.target).encode()


def test_correction_asks_again_with_the_answer() -> None:
    correct = Rule(lambda ask, _: str(len(ask.prompt)), "lengths")
    rac = Rac("a", template="{input}|{answer}|")
    assert rac.corrected(correct, ["abc", "d"], passes=0) == ["3", "1"]
    assert rac.corrected(correct, ["abc", "d"]) == [str(len("abc|3|")), str(len("d|1|"))]
    assert rac.corrected(correct, ["abc"], passes=2) == [str(len(f"abc|{len('abc|3|')}|"))]


@given(question=st.text(max_size=20), own=st.text(max_size=20))
def test_braces_in_texts_are_text(question: str, own: str) -> None:
    assert Rac("a", template="Q {input} A {answer} C ").asked_again(question, own) == f"Q {question} A {own} C "


@pytest.mark.parametrize("template", ["{input}", "{answer}", ""])
def test_a_template_without_its_places_is_refused(template: str) -> None:
    with pytest.raises(TrainingError, match="must have the places"):
        Rac("a", template=template)
