"""Processes of their own for what is measured, so that memory and lanes are of that alone."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Worker:
    """One fresh process that runs tasks in turn; leave its context to end it.

    What a task raises is raised here. MemoryError if the process dies, which is how Linux says that memory ran out.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (dict(environment or {}),))

    def __call__(self, task: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return self._pool.submit(task, *arguments, **named).result()
        except BrokenProcessPool:
            raise MemoryError from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown()


def _begin(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says that it was stopped


def peak_bytes() -> int:
    """The most memory this process has held.

    getrusage's figure outlives exec, so that a child begins with its parent's; Linux's own for the address space does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
