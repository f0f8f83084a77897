"""BatchPrompt: answers are read by their number, votes are counted, and items leave when they are settled."""

import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.batch_prompt import BatchPrompt, BatchPromptOptions, Vote
from zkaudit.training.generation.generator import Ask, Rule, sha256

ITEMS = [f"item {number} is {'even' if number % 2 == 0 else 'odd'}" for number in range(10)]


def listed(prompt: str) -> list[tuple[int, str]]:
    return [(int(number), text) for number, text in re.findall(r"^\[(\d+)\] (item .*)$", prompt, re.MULTILINE)]


def judge(answer: Callable[[int, str, random.Random], str]) -> Rule:
    return Rule(lambda ask, draws: "\n".join(f"[{n}] {answer(n, text, draws)}" for n, text in listed(ask.prompt)), "judge")


def truth(text: str) -> str:
    return "yes" if text.endswith("even") else "no"


SURE = judge(lambda n, text, _: f"{truth(text)} (confident)")
UNSURE = judge(lambda n, text, _: f"{truth(text)} (not confident)")


def asker(rule: Rule, **options: object) -> BatchPrompt:
    return BatchPrompt(rule, ("yes", "no"), "run", BatchPromptOptions(**{"batch": 4, "votes": 5} | options))


def test_every_item_gets_its_own_label_in_any_order() -> None:
    found = asker(SURE, early_stop=False)("even?", ITEMS)
    assert found.labels == [truth(item) for item in ITEMS]
    assert all(len(votes) == 5 for votes in found.votes)
    assert (found.prompts, found.asked) == (5 * 3, 5 * 10)


def test_items_leave_after_two_equal_confident_answers() -> None:
    found = asker(SURE)("even?", ITEMS)
    assert all(len(votes) == 2 for votes in found.votes)
    assert (found.prompts, found.asked) == (2 * 3, 2 * 10)
    assert all(len(votes) == 5 for votes in asker(UNSURE)("even?", ITEMS).votes)
    assert all(len(votes) == 2 for votes in asker(UNSURE, confident_stop=False)("even?", ITEMS).votes)


def test_those_that_stay_keep_their_own_answers_when_equal_items_leave() -> None:
    """Where items are removed by value, the first equal one goes and the others' answers are mixed up."""
    items = ["item a is even", "item b is odd", "item a is even", "item c is odd"]
    stubborn = judge(lambda n, text, draws: f"{truth(text)} (confident)" if " a " in text else f"{truth(text)} (not confident)")
    found = asker(stubborn)("even?", items)
    assert [len(votes) for votes in found.votes] == [2, 5, 2, 5]
    assert found.labels == ["yes", "no", "yes", "no"]


def test_an_answer_that_cannot_be_read_shifts_no_other() -> None:
    skipping = judge(lambda n, text, _: "perhaps" if n == 1 else f"{truth(text)} (confident)")
    found = asker(skipping, votes=1)("even?", ITEMS)
    assert found.labels == [None if n % 4 == 1 else truth(item) for n, item in enumerate(ITEMS)]


def test_orders_are_the_data_first_then_drawn_from_the_seed() -> None:
    asks: list[Ask] = []
    rule = Rule(lambda ask, _: asks.append(ask) or "", "silent")
    BatchPrompt(rule, ("yes", "no"), "run", BatchPromptOptions(batch=10, votes=6))("even?", ITEMS)
    orders = [[text for _, text in listed(ask.prompt)] for ask in asks]
    assert orders[0] == ITEMS
    assert all(sorted(order) == sorted(ITEMS) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    again: list[Ask] = []
    BatchPrompt(Rule(lambda ask, _: again.append(ask) or "", "silent"), ("yes", "no"), "run", BatchPromptOptions(10, 6))(
        "even?", ITEMS
    )
    assert again == asks


def test_raw_answers_are_bound() -> None:
    found = asker(SURE, votes=1)("even?", ITEMS)
    assert [each.output for each in found.provenance] == [sha256(text) for text in found.raw]
    assert len(found.raw) == found.prompts


@pytest.mark.parametrize(
    ("text", "votes"),
    [
        ("[0] yes (confident)\n[1] No (not confident).", {0: Vote("yes", True), 1: Vote("no", False)}),
        ("[1] YES", {1: Vote("yes", False)}),
        ("  [0]   no   (Confident) ", {0: Vote("no", True)}),
        ("[7] yes\n[x] no\nyes\n0 yes", {}),
        ("[0] yes\n[0] no", {}),
        ("[0] yes\n[0] yes", {0: Vote("yes", False)}),
        ("[0] maybe\n[1] yes, I think", {}),
        ("", {}),
    ],
)
def test_lines_are_read_or_left(text: str, votes: dict[int, Vote]) -> None:
    assert asker(SURE).read(text, 2) == votes


@given(votes=st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.booleans()), max_size=9), weight=st.sampled_from([1.0, 5.0]))
def test_a_confident_vote_counts_its_weight_and_of_equal_labels_the_first_wins(votes: list, weight: float) -> None:
    totals = {label: sum(weight if sure else 1 for given_, sure in votes if given_ == label) for label in ("yes", "no")}
    first = votes[0][0] if votes else None
    expected = first if totals["yes"] == totals["no"] else max(totals, key=lambda label: totals[label])
    assert asker(SURE, weight=weight).majority([Vote(*vote) for vote in votes]) == expected


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: BatchPromptOptions(batch=0), "batch = 0"),
        (lambda: BatchPromptOptions(votes=0), "votes = 0"),
        (lambda: BatchPrompt(SURE, ("yes", "Yes"), "run"), "different words"),
        (lambda: BatchPrompt(SURE, (), "run"), "different words"),
    ],
)
def test_what_cannot_be_used_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
