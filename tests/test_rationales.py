"""Reasons from a teacher: what it is asked, what is read from its answer, and what is not used."""

import pytest

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Rule, sha256
from zkaudit.training.generation.rationales import Teacher, explained
from zkaudit.training.objectives.step_by_step import Explained

WORKED = [Explained("2+2", "4", "Two and two are four.")]
ANSWERS = {
    "3+3": "Three twice is six.\nSo the answer is 6.",
    "5+5": "Five twice is eleven. So the answer is 11.",
    "1+1": "I cannot say.",
    "0+0": "So the answer is 0.",
}
TEACHER = Rule(lambda ask, _: ANSWERS[ask.prompt.rsplit("Question: ", 1)[1].split("\n")[0]], "teacher")
RECORDS = [("3+3", "6"), ("5+5", "10"), ("1+1", "2"), ("0+0", "0")]


def test_the_prompt_is_worked_examples_and_the_question() -> None:
    assert Teacher(WORKED).prompt("3+3") == (
        "Question: 2+2\nAnswer: Two and two are four. So the answer is 4.\n\nQuestion: 3+3\nAnswer: "
    )


def test_reasons_for_another_label_and_no_reasons_are_not_used() -> None:
    found, provenance = explained(Teacher(WORKED), TEACHER, "run", RECORDS)
    assert [record.rationale for record in found] == ["Three twice is six.", None, None, None]
    assert [(record.text, record.label) for record in found] == RECORDS
    assert [each.kept for each in provenance] == [True, False, False, False]
    assert provenance[0].output == sha256(ANSWERS["3+3"])


def test_reasons_that_disagree_can_be_kept() -> None:
    found, provenance = explained(Teacher(WORKED, agree=False), TEACHER, "run", RECORDS)
    assert found[1].rationale == "Five twice is eleven."
    assert [each.score for each in provenance] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Teacher(WORKED, question="no place"), "must have the place"),
        (lambda: Teacher(WORKED, ending="no group"), "must have a group"),
        (lambda: Teacher([Explained("a", "b")]), "has no rationale"),
    ],
)
def test_what_cannot_be_used_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
