"""Proved runs of a 4-3-2 network on 24 random records, and commands in this process, where torch is loaded once."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from zkaudit_process import Proved

from zkaudit.cli import main

CONFIG = """
[data]
source = "set.npz"
test_fraction = 0.25
[model]
hidden = [3]
init_seed = 1
[training]
loss = "{loss}"
batch = {batch}
steps = {steps}
learning_rate = 0.1
seed = "{seed}"
"""


@dataclass(frozen=True)
class Outcome:
    """What a command ended in and printed."""

    code: int
    out: str
    err: str


def command(*arguments: str | Path) -> Outcome:
    """Run a command of `zkaudit`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def succeed(*arguments: str | Path) -> str:
    """Run a command, which must end in 0; what it printed."""
    done = command(*arguments)
    assert done.code == 0, done.err
    return done.out


def assert_refused(done: Outcome, code: int, *words: str) -> None:
    """This exit code, and one line on stderr that holds `words`."""
    assert done.code == code, done
    assert done.err.startswith("zkaudit: ")
    assert done.err.count("\n") == 1
    assert "internal error" not in done.err
    for word in words:
        assert word in done.err


def tiny(folder: Path, batch: int, steps: int, seed: str = "tiny", loss: str = "cross_entropy", method: str = "") -> Proved:
    """A run in a folder, with its proof; `method` is what more the configuration says of the training."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(7)
    np.savez(folder / "set.npz", X=random.normal(size=(32, 4)), y=np.arange(32) % 2)
    made = Proved(folder / "config.toml", folder / "run", folder / "proof.zkp")
    made.config.write_text(CONFIG.format(batch=batch, steps=steps, seed=seed, loss=loss) + method)
    succeed("train", made.config, "--out", made.run)
    succeed("prove", made.run, "--out", made.proof)
    return made
