"""Inputs guided by coverage: libFuzzer, by way of atheris, keeps those that reach new lines of zkaudit.zk and mutates them on.

Import this before anything of zkaudit: what was imported before it is not watched.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["zkaudit.zk"]):
    from fuzz.drafts import Draft
    from fuzz.loop import kept, prepare
    from fuzz.mutations import begun, mutated
    from fuzz.target import BUDGET, examine, limit_memory


def fuzz(seed: int, inputs: int, seconds: float, findings: Path) -> None:
    """Try inputs until there have been `inputs`, for `seconds`, or until one goes wrong, which is kept. Ends the process."""
    honest = prepare()
    folder = Path(tempfile.mkdtemp(prefix="zkaudit-fuzz-"))
    corpus, path = folder / "corpus", folder / "input.zkp"
    corpus.mkdir()
    for i, data in enumerate(honest):
        (corpus / f"honest-{i}.zkp").write_bytes(data)

    def try_one(data: bytes) -> None:
        path.write_bytes(data)
        fault = examine(path, data, honest).fault
        if fault:
            raise RuntimeError(f"{fault}: {kept(findings, fault, data)}")

    def mutate(data: bytes, largest: int, number: int) -> bytes:
        rng = Random(number)
        return mutated(rng, Draft.read(data) or begun(rng))[:largest]

    until = [] if seconds == float("inf") else [f"-max_total_time={int(seconds)}"]
    options = [
        f"-seed={seed}",
        f"-runs={inputs}",
        f"-max_len={BUDGET}",
        "-len_control=0",
        "-timeout=20",
        "-rss_limit_mb=0",
        *until,
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], try_one, custom_mutator=mutate)
    limit_memory()
    atheris.Fuzz()
