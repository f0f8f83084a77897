"""Self-Lengthen: what counts as longer and valid, what is dropped, and the published length score."""

import random
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Ask, Rule
from zkaudit.training.generation.self_lengthen import SelfLengthen, length_band, length_score, valid, words

PROMPTS = [f"tell of {name}" for name in ("rivers", "hills", "towns", "bread", "glass", "rope", "ink", "salt")]
LENGTHEN = SelfLengthen("run", template="{prompt}|{answer}")


def answer(ask: Ask, draws: random.Random) -> str:
    return "\n\n".join(f"{ask.prompt} {draws.random():.5f} is so." for _ in range(4))


def extend(ask: Ask, draws: random.Random) -> str:
    """Says as much again, from where the answer was begun."""
    given_ = ask.prompt.partition("|")[2]
    count = max(1, len(given_.split("\n\n")))
    return "\n\n" + "\n\n".join(f"more {draws.random():.5f} of it is {draws.random():.5f}." for _ in range(count))


GENERATOR, EXTENDER = Rule(answer, "answers"), Rule(extend, "extends")


def test_answers_grow_and_repeat_nothing() -> None:
    for number in range(3):
        found = LENGTHEN.round(PROMPTS, GENERATOR, EXTENDER, number)
        assert found
        for each in found:
            assert words(each.extended) > 1.2 * words(each.answer)
            assert valid(each.extended)
            assert len(each.provenance) >= 3
    assert found == LENGTHEN.round(PROMPTS, GENERATOR, EXTENDER, 2)


def test_the_whole_is_continued_from_two_thirds_of_the_longer_first_half() -> None:
    asks: list[Ask] = []
    parts = iter(["one.\n\ntwo.\n\nthree.", " and the end."])
    extender = Rule(lambda ask, _: asks.append(ask) or next(parts), "two")
    written = SelfLengthen("run", template="{prompt}|{answer}", passes=1).extend("p", "a\n\nb\n\nc\n\nd", extender, "k", 0)
    assert [(ask.prompt, ask.start) for ask in asks] == [("p|a\n\nb", ""), ("p|a\n\nb\n\nc\n\nd", "one.\n\ntwo.")]
    assert written is not None
    assert written[-1].text == "one.\n\ntwo. and the end."


def test_an_extender_that_adds_too_little_is_given_up_after_its_tries() -> None:
    count = []
    lazy = Rule(lambda ask, _: count.append(1) or "short.", "lazy")
    assert SelfLengthen("run", template="{prompt}|{answer}", retries=4).round(["p"], GENERATOR, lazy, 0) == []
    assert len(count) == 4 * 3 * 2


def test_a_record_of_rank_r_is_dropped_with_probability_2_r_cubed() -> None:
    counted = {prompt: 9 * (2 + number) for number, prompt in enumerate(PROMPTS)}
    generator = Rule(lambda ask, _: "word.", "word")

    def sized(ask: Ask, draws: random.Random) -> str:
        return " ".join(f"{draws.random():.9f}" for _ in range(counted[ask.prompt.split("|")[0]])) + "."

    lengthen = SelfLengthen("run", template="{prompt}|{answer}", passes=1)
    rounds = 200
    kept = Counter(
        each.prompt for number in range(rounds) for each in lengthen.round(PROMPTS, generator, Rule(sized, "sized"), number)
    )
    for place, prompt in enumerate(PROMPTS):
        expected = max(0.0, 1 - 2 * (1 - place / len(PROMPTS)) ** 3)
        error = 5 * (expected * (1 - expected) / rounds) ** 0.5
        assert abs(kept[prompt] / rounds - expected) <= error, prompt


def test_rows_for_the_extender_miss_a_fifth_of_the_lines() -> None:
    found = LENGTHEN.round(PROMPTS, GENERATOR, EXTENDER, 0)
    longer = [type(each)(each.prompt, "\n".join(map(str, range(1000))), each.extended, each.provenance) for each in found]
    for_generator, for_extender = LENGTHEN.rows(longer, 0)
    assert [pair.source for pair in for_generator] == [each.prompt for each in found]
    assert [pair.target for pair in for_extender] == [each.extended for each in found]
    shares = [len(pair.source.split("\n")) / 1000 for pair in for_extender]
    assert fmean(shares) == pytest.approx(0.8, abs=0.03)
    assert all(0.74 < share < 0.86 for share in shares)


@pytest.mark.parametrize(("length", "score"), [(1200, 1.0), (1500, 0.5), (400, 0.0), (800, 1.0), (600, 0.5), (2000, 0.0)])
def test_about_a_thousand_words(length: int, score: float) -> None:
    assert length_score(length, *length_band("about", 1000)) == pytest.approx(score)


@given(kind=st.sampled_from(["about", "above", "below"]), target=st.integers(1, 9999), length=st.integers(0, 30_000))
def test_a_score_is_1_in_its_band_alone(kind: str, target: int, length: int) -> None:
    low, high = length_band(kind, target)
    score = length_score(length, low, high)
    assert 0 <= score <= 1
    assert (score == 1) == (low <= length <= high)


def test_a_range_is_itself() -> None:
    assert length_band("range", 300, 400) == (300, 400)


def test_chinese_characters_are_words_and_runs_of_13_may_not_repeat() -> None:
    assert words("长文本 of three") == 5
    numbers = " ".join(map(str, range(40)))
    assert valid(f"{numbers} end.")
    assert not valid(numbers)
    assert not valid(f"{' '.join(map(str, range(13)))} and {' '.join(map(str, range(13)))} end.")
    assert valid(f"{' '.join(map(str, range(12)))} and {' '.join(map(str, range(12)))} end.")
    assert valid("完成了。")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SelfLengthen("r", passes=0), "must be at least 1"),
        (lambda: SelfLengthen("r", template="{prompt}"), "must have the places"),
        (lambda: length_score(5, 0, 10), "must be above 0"),
        (lambda: length_band("near", 10), "not 'near'"),
    ],
)
def test_what_cannot_be_used_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
