"""Runs `zkaudit` the way a user does, in a process of its own, on configurations small enough for tests."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ZKAUDIT = (sys.executable, "-m", "zkaudit.cli")
PAUSE = 0.02  # seconds between looks at a folder

# One linear layer, one step on one row: nothing is smaller.
SMALLEST = """
[data]
source = "iris"
test_fraction = 0.25
[model]
hidden = []
[training]
loss = "cross_entropy"
batch = 1
steps = 1
learning_rate = 0.1
seed = "smallest"
"""

# No width, batch or step count is a power of two.
ODD = """
[data]
source = "wine"
test_fraction = 0.3
[model]
hidden = [7, 5]
[training]
loss = "square"
batch = 3
steps = 5
learning_rate = [0.05, 0.05, 0.04, 0.03, 0.02]
seed = "odd"
"""

LONG = SMALLEST.replace("steps = 1", "steps = 20000").replace("hidden = []", "hidden = [16]")


@dataclass(frozen=True)
class Proved:
    """A finished run and its proof."""

    config: Path
    run: Path
    proof: Path  # a file, or the folder of a chain


def zkaudit(*arguments: str | Path, cwd: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run([*ZKAUDIT, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, **options)


def succeed(*arguments: str | Path, **options: Any) -> str:
    """Run the command, which must end in 0; what it printed."""
    done = zkaudit(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one sentence on stderr that holds `words`."""
    assert done.returncode == 2, done
    assert done.stderr.startswith("zkaudit: ")
    assert done.stderr.count("\n") == 1
    assert "internal error" not in done.stderr
    for word in words:
        assert word in done.stderr


def proved(folder: Path, config: str, *options: str) -> Proved:
    result = Proved(folder / "config.toml", folder / "run", folder / "proof")
    result.config.write_text(config)
    succeed("train", result.config, "--out", result.run)
    succeed("prove", result.run, "--out", result.proof, *options)
    return result


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until `condition` holds; the process must still be at work then."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(PAUSE)


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A process that heeds Ctrl-C, also where the tests are a shell's background job, which does not."""
    command, pipe = [*ZKAUDIT, *map(str, arguments)], subprocess.PIPE
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed, **options)
