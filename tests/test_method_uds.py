"""UDS: scores as published, codes on their true scale, masks, ties, and the traps of the method refused or shown."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zkaudit.training.batch.uds import UNIT, UDSOptions, UDSSelector, nuclear_norm, top
from zkaudit.training.errors import TrainingError
from zkaudit.training.replay import replay
from zkaudit.training.step_file import StepWriter
from zkaudit.training.steps import StepRecord


def logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def selector(keep: int = 2, length: int = 12, vocabulary: int = 30, **options: object) -> UDSSelector:
    return UDSSelector(UDSOptions(keep, length, vocabulary, **options), run_seed="a")  # type: ignore[arg-type]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_utility_is_the_sum_of_singular_values(rows: int, columns: int, seed: int) -> None:
    matrices = logits(seed, 3, rows, columns)
    expected = torch.linalg.svdvals(matrices.double()).sum(dim=1)
    torch.testing.assert_close(nuclear_norm(matrices), expected, rtol=1e-6, atol=1e-5)


def test_a_large_sum_is_not_a_high_rank() -> None:
    uneven, identity = torch.diag(torch.tensor([10.0, 0.0])), torch.eye(2)
    assert nuclear_norm(torch.stack([uneven, identity])).tolist() == pytest.approx([10.0, 2.0])


def published(chooser: UDSSelector, batches: list[Tensor]) -> list[list[int]]:
    """Places chosen from each batch by the released rule in numpy: full spectra, codes, mean distance to the buffer, top k."""
    o, (s2, s1), (i2, i1) = chooser.options, chooser.signs, chooser.places
    buffer: list[np.ndarray] = []
    found = []
    for batch in batches:
        z = np.zeros((len(batch), o.length, o.vocabulary))
        z[:, : batch.shape[1]] = batch.numpy()
        codes = np.fft.fft(z * s2.numpy(), axis=2).real[:, :, i2.numpy()] * np.sqrt(o.vocabulary / len(i2))
        codes = np.fft.fft(codes * s1.numpy()[:, None], axis=1).real[:, i1.numpy()] * np.sqrt(o.length / len(i1))
        codes = codes.reshape(len(batch), -1)
        utility = np.array([np.linalg.norm(each, "nuc") for each in batch.numpy()])
        diversity = np.array([np.mean([np.linalg.norm(c - b) for b in buffer]) if buffer else 0.0 for c in codes])
        chosen = sorted(np.argsort(-(utility + o.alpha * diversity))[: o.keep].tolist())
        buffer = (buffer + [codes[place] for place in chosen])[-o.buffer :]
        found.append(chosen)
    return found


def test_choices_are_the_published_ones() -> None:
    """With the released code's scale, over steps in which the buffer fills and overflows."""
    chooser = selector(alpha=0.05, buffer=5, codes=(16, 4), paper_scale=True)
    batches = [logits(seed, 6, 9, 30) * torch.rand(6, 1, 1) for seed in range(12)]
    assert [list(chooser.choose(batch, range(6)).places) for batch in batches] == published(chooser, batches)
    assert len(chooser.codes) == 5


@pytest.mark.parametrize(("length", "vocabulary"), [(64, 512), (128, 2048)])
def test_distances_of_codes_are_those_of_logits_on_the_true_scale(length: int, vocabulary: int) -> None:
    """The released transform makes them sqrt(T V) / 2 times as large: 90.5 and 256 at these sizes."""
    pairs = logits(0, 24, length, vocabulary)
    true = (pairs[:12] - pairs[12:]).flatten(1).norm(dim=1)
    for paper_scale, factor in ((False, 1.0), (True, (length * vocabulary) ** 0.5 / 2)):
        chooser = selector(1, length, vocabulary, paper_scale=paper_scale)
        codes = chooser.code(pairs)
        ratio = (codes[:12] - codes[12:]).norm(dim=1) / true
        assert float(ratio.mean()) == pytest.approx(factor, rel=0.04)
        assert float(ratio.std() / ratio.mean()) < 0.06


def test_alpha_counts_the_same_on_either_scale() -> None:
    factor = selector().options.paper_factor
    true, theirs = selector(alpha=3.0), selector(alpha=3.0 / factor, paper_scale=True)
    for seed in range(6):
        batch = logits(seed, 5, 12, 30)
        assert true.choose(batch, range(5)).places == theirs.choose(batch, range(5)).places


def test_a_candidate_like_what_was_trained_on_loses_only_with_alpha() -> None:
    for alpha, expected in ((0.0, (0,)), (5.0, (1,))):
        chooser = selector(1, alpha=alpha)
        seen, other = logits(0, 12, 30), logits(1, 12, 30)
        other = other * float(nuclear_norm(seen[None]) / nuclear_norm(other[None])) * 0.99
        chooser.choose(torch.stack([seen, 0.1 * other]), (5, 6))
        assert chooser.choose(torch.stack([seen, other]), (7, 8)).places == expected


def test_what_is_masked_or_padded_does_not_count() -> None:
    """Prompts and padding: what stands there, and how much of it, changes nothing."""
    batch = logits(0, 4, 10, 30)
    mask = torch.zeros(4, 10)
    mask[:, 3:8] = 1
    other = torch.where(mask[..., None] == 1, batch, 100 * logits(1, 4, 10, 30))
    longer = torch.cat([other, logits(2, 4, 2, 30)], dim=1)
    found = [
        selector().choose(batch, range(4), mask),
        selector().choose(other, range(4), mask),
        selector().choose(longer, range(4), torch.nn.functional.pad(mask, (0, 2))),
    ]
    assert len({(each.places, each.scores) for each in found}) == 1
    assert selector().choose(other, range(4)).scores != found[0].scores


def test_longer_candidates_win_and_per_position_shows_it() -> None:
    batch = logits(0, 2, 12, 30)
    mask = torch.ones(2, 12)
    mask[0, 6:] = 0
    found = selector(1).choose(batch, range(2), mask)
    assert found.places == (1,)
    assert float(found.utility[1] / found.utility[0]) > 1.5
    assert float(found.per_position[1] / found.per_position[0]) == pytest.approx(1, abs=0.2)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.randoms(), st.data())
def test_ties_go_to_the_lower_row(scores: list[int], random: object, data: st.DataObject) -> None:
    ids = data.draw(st.permutations(range(len(scores))))
    keep = data.draw(st.integers(1, len(scores)))
    places = top([(score,) for score in scores], ids, keep)
    assert {ids[p] for p in places} == {row for _, row in sorted((-s, i) for s, i in zip(scores, ids, strict=True))[:keep]}
    assert list(places) == sorted(places)


def test_equal_candidates_are_ranked_by_row_whatever_their_place() -> None:
    same = logits(0, 1, 12, 30).expand(4, 12, 30)
    assert selector(2).choose(same, (9, 3, 7, 1)).ids == (3, 1)


def test_a_loaded_selector_chooses_alike_and_the_digest_is_of_before() -> None:
    first, second = selector(alpha=4.0), selector(alpha=4.0)
    empty = first.digest()
    chosen = first.choose(logits(0, 4, 12, 30), range(4))
    assert chosen.state == empty != first.digest()
    second.load_state_dict(first.state_dict())
    batch = logits(1, 4, 12, 30)
    a, b = first.choose(batch, range(4)), second.choose(batch, range(4))
    assert (a.places, a.scores, a.state) == (b.places, b.scores, b.state)
    with pytest.raises(TrainingError, match="another width"):
        selector(codes=(4, 4)).load_state_dict(first.state_dict())


def test_another_run_seed_has_other_codes() -> None:
    one, other = (UDSSelector(UDSOptions(1, 12, 30), run_seed=seed) for seed in "ab")
    batch = logits(0, 2, 12, 30)
    assert not torch.equal(one.code(batch), other.code(batch))


def test_scoring_leaves_the_model_as_it_was() -> None:
    from streamed_models import WORDS, gpt2

    torch.manual_seed(0)
    model = gpt2(resid_pdrop=0.5).train()
    model.transformer.h[0].eval()
    batch = {"input_ids": torch.randint(WORDS, (4, 8)), "labels": torch.randint(WORDS, (4, 8))}
    chosen = [selector(2, 8, WORDS).select(model, batch, range(4)) for _ in range(2)]
    assert chosen[0].scores == chosen[1].scores  # without dropout
    assert model.training
    assert not model.transformer.h[0].training
    assert all(p.grad is None for p in model.parameters())
    kept = chosen[0].of(batch)
    assert torch.equal(kept["labels"], batch["labels"][list(chosen[0].places)])


def test_a_recorded_choice_is_replayed_from_scores(tmp_path: Path) -> None:
    chooser = selector(2)
    with StepWriter(tmp_path, "a", 40, {"uds": {"keep": 2}}, selector="uds") as writer:
        for step in range(5):
            ids = tuple(range(8 * step, 8 * step + 8))
            writer.write(StepRecord(step, **chooser.choose(logits(step, 8, 12, 30), ids).fields(ids)))
    done = replay(tmp_path)
    assert done.difference is None
    assert "ids" in done.recomputed
    assert {"candidate_ids", "scores", "selector_state"} == set(done.declared)


def test_scores_are_rounded_to_two_to_the_minus_16() -> None:
    found = selector(alpha=0.0).choose(logits(0, 2, 12, 30), range(2))
    expected = nuclear_norm(logits(0, 2, 12, 30)) * 2**UNIT
    assert [score for (score,) in found.scores] == expected.round().long().tolist()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: UDSOptions(0, 12, 30), "keep = 0"),
        (lambda: UDSOptions(1, 1, 30), "how sure the model is"),
        (lambda: UDSOptions(1, 12, 30, alpha=-1.0), "alpha = -1.0"),
        (lambda: selector().choose(logits(0, 4, 1, 30), range(4)), "one position each"),
        (lambda: selector().choose(logits(0, 2, 5, 30), range(2), torch.eye(5)[:2]), "one position each"),
        (lambda: selector().choose(logits(0, 4, 13, 30), range(4)), "logits are"),
        (lambda: selector().choose(logits(0, 4, 12, 31), range(4)), "logits are"),
        (lambda: selector().choose(logits(0, 4, 12, 30), (1, 2, 2, 3)), "name each once"),
        (lambda: selector().choose(logits(0, 1, 12, 30), (1,)), "of which 2 are kept"),
        (lambda: selector().choose(logits(0, 4, 12, 30), range(4), torch.ones(4, 11)), "mask is"),
        (lambda: selector().choose(logits(0, 4, 12, 30) / 0, range(4)), "not finite"),
    ],
)
def test_what_cannot_be_scored_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()  # type: ignore[operator]
