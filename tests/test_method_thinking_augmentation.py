"""Thoughts after documents: rows that can be taken apart, and nothing of the document lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Rule
from zkaudit.training.generation.thoughts import Tags, apart, append_thoughts

PLAIN = st.text(alphabet="ab <>/\n", max_size=30)


@given(documents=st.lists(PLAIN, max_size=5), thoughts=PLAIN)
def test_a_row_is_the_document_and_its_thoughts_and_can_be_taken_apart(documents: list[str], thoughts: str) -> None:
    rows = append_thoughts(documents, Rule(lambda ask, _: thoughts, "same"), "run")
    for document, row in zip(documents, rows, strict=True):
        assert apart(row.text) == (document, thoughts.strip() or None)
        assert row.provenance.kept == bool(thoughts.strip())


def test_every_document_is_asked_about_once_with_a_seed_of_its_own() -> None:
    asked = []
    rule = Rule(lambda ask, draws: asked.append(ask) or f"{draws.random()}", "numbers")
    rows = append_thoughts(["one", "two", "one"], rule, "run")
    assert len(asked) == 3
    assert len({ask.seed for ask in asked}) == 3
    assert rows[0].text != rows[2].text
    assert rows == append_thoughts(["one", "two", "one"], rule, "run")


def test_the_generator_sees_the_first_words_and_the_row_has_them_all() -> None:
    echo = Rule(lambda ask, _: ask.prompt, "echo")
    tags = Tags(prompt="{document}", words=3)
    row = append_thoughts(["a  b\nc d e"], echo, "run", tags)[0]
    assert apart(row.text, tags) == ("a  b\nc d e", "a  b\nc")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: append_thoughts(["fine", "a <think> b"], Rule(lambda a, _: "x", "x"), "run"), "document 1 holds the tag"),
        (lambda: append_thoughts(["fine"], Rule(lambda a, _: "x </think> y", "x"), "run"), "about document 0 hold a tag"),
        (lambda: Tags(open=" "), "must not be blank"),
        (lambda: Tags(prompt="x"), "the place"),
        (lambda: Tags(words=0), "words = 0"),
    ],
)
def test_what_could_not_be_told_apart_is_refused(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
