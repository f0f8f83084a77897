"""The transcript: challenges depend on every byte, every label and every boundary."""

from hypothesis import given
from hypothesis import strategies as st

from zkaudit.zk.field import MODULUS
from zkaudit.zk.transcript import Transcript

entries = st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=5)


def challenge_after(dialogue: list[tuple[bytes, bytes]], domain: bytes = b"test") -> int:
    transcript = Transcript(domain)
    for label, data in dialogue:
        transcript.absorb(label, data)
    return transcript.challenge(b"c")


@given(entries, entries)
def test_different_dialogues_have_different_challenges(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]
) -> None:
    assert (one == other) == (challenge_after(one) == challenge_after(other))


def test_bytes_cannot_move_between_label_and_data() -> None:
    assert challenge_after([(b"ab", b"c")]) != challenge_after([(b"a", b"bc")])


def test_entries_cannot_be_joined() -> None:
    assert challenge_after([(b"a", b"bc")]) != challenge_after([(b"a", b"b"), (b"", b"c")])


def test_domains_separate() -> None:
    assert challenge_after([], b"one") != challenge_after([], b"two")


def test_a_challenge_is_no_absorption() -> None:
    drawn, absorbed = Transcript(b"t"), Transcript(b"t")
    drawn.challenge(b"x")
    absorbed.absorb(b"x", b"")
    assert drawn.challenge(b"c") != absorbed.challenge(b"c")


@given(st.integers(1, 20))
def test_challenges_are_distinct_and_reduced(count: int) -> None:
    transcript = Transcript(b"t")
    drawn = [transcript.challenge(b"c") for _ in range(count)]
    assert len(set(drawn)) == count
    assert all(0 <= x < MODULUS for x in drawn)
