"""Two tasks on one input: prefixes, weights, and records without reasons."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from zkaudit.training.errors import TrainingError
from zkaudit.training.objectives.rows import Pair
from zkaudit.training.objectives.step_by_step import Explained, TwoTasks, collate

RECORDS = [
    Explained("the sky at noon", "blue", "light scatters"),
    Explained("grass", "green"),
    Explained("coal and soot", "black", "it takes in all light there is"),
]


def encode(text: str) -> list[int]:
    return list(text.encode())


def batch(rows: list[Pair]) -> dict[str, torch.Tensor]:
    return collate(rows, encode, pad=0, eos=1)


def t5() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    return T5ForConditionalGeneration(T5Config(vocab_size=128, **sizes, decoder_start_token_id=0))


def test_each_record_is_asked_for_its_label_and_for_its_reasons_if_there_are_any() -> None:
    labels, reasons = TwoTasks().rows(RECORDS)
    assert labels == [(f"predict: {record.text}", record.label) for record in RECORDS]
    assert reasons == [(f"explain: {record.text}", record.rationale) for record in RECORDS if record.rationale]


def test_a_rationale_is_never_part_of_a_source() -> None:
    for rows in TwoTasks().rows(RECORDS):
        assert not any(record.rationale in row.source for row in rows for record in RECORDS if record.rationale)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 0.9])
def test_the_loss_is_the_weighted_sum_of_the_tasks_mean_cross_entropies(alpha: float) -> None:
    model, tasks = t5(), TwoTasks(alpha)
    label, rationale = tasks.batches(RECORDS, batch)
    terms = []
    for each in (label, rationale):
        logits = model(**each).logits
        terms.append(F.cross_entropy(logits.flatten(0, 1), each["labels"].flatten(), ignore_index=-100))
    torch.testing.assert_close(tasks.loss(model, label, rationale), alpha * terms[0] + (1 - alpha) * terms[1])


def test_the_papers_lambda_is_another_way_to_write_alpha() -> None:
    label, rationale = torch.tensor(2.0), torch.tensor(5.0)
    for strength in (0.5, 1.0, 3.0):
        alpha = 1 / (1 + strength)
        expected = (label + strength * rationale) * alpha
        torch.testing.assert_close(TwoTasks(alpha).combined(label, rationale), expected)


def test_alpha_1_is_training_on_labels_alone() -> None:
    model, tasks = t5(), TwoTasks(alpha=1.0)
    label, rationale = tasks.batches(RECORDS, batch)
    assert tasks.loss(model, label, rationale) == model(**label).loss


def test_without_rationales_there_is_no_second_batch() -> None:
    label, rationale = TwoTasks().batches([Explained("a", "b")], batch)
    assert rationale is None
    model = t5()
    torch.testing.assert_close(TwoTasks().loss(model, label, None), 0.5 * model(**label).loss)


def test_rows_are_cut_with_their_end_kept() -> None:
    found = collate([Pair("x" * 50, "y" * 50), Pair("a", "b")], encode, pad=0, eos=1, longest=(8, 4))
    assert found["input_ids"].tolist() == [[120] * 7 + [1], [97, 1] + [0] * 6]
    assert found["labels"].tolist() == [[121] * 3 + [1], [98, 1, -100, -100]]
    assert found["attention_mask"].tolist() == [[1] * 8, [1, 1] + [0] * 6]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [(lambda: TwoTasks(alpha=1.1), "alpha = 1.1"), (lambda: TwoTasks(predict="", explain=""), "could not tell them apart")],
)
def test_bad_options_are_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
