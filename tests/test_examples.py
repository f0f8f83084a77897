"""The example configurations do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from zkaudit.training import config
from zkaudit.training.fixedpoint import prepare
from zkaudit.zk import prover
from zkaudit.zk.proof_file import read
from zkaudit.zk.sampling import batch_rows
from zkaudit.zk.verifier import verify_files

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_the_example_of_galore_in_fp8_is_trained_and_proved(tmp_path: Path) -> None:
    settings = config.load(EXAMPLES / "galore.toml")
    run = prepare(settings, tmp_path / "run")
    seed = prover.commit_start(tmp_path / "run")
    t = settings.training
    result = run.train(batch_rows(seed, run.rows, t.batch, 0, t.steps), seed=seed)
    assert result.test_accuracy > 0.93
    assert abs(result.test_accuracy - result.float_test_accuracy) < 0.02
    files = prover.prove_run(tmp_path / "run", tmp_path / "proof.zkp")
    assert verify_files(files).valid
    statement = read(files[0]).statement
    assert statement.galore is not None
    assert statement.galore.energy == 128
    assert statement.fp8 is not None
