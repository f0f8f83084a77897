"""Proving on this machine: in this process, or in several.

Workers are processes of a fresh interpreter, not forks: OpenMP does not survive a fork, and nothing secret of this process is
in their memory but what they are sent. They read the run's folder themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Pipe, wait
from typing import Any

from zkaudit.zk import field
from zkaudit.zk.engine.attempts import Attempts
from zkaudit.zk.engine.job import Job, Proof, Report, prove_job, supplies

PATIENCE = 5  # seconds for a process whose connection has closed to end by itself


class ThisProcess:
    """One job after the other, here."""

    def prove(self, jobs: Sequence[Job], report: Report) -> Generator[Proof, None, None]:
        """See Engine."""
        for job in jobs:
            yield prove_job(job, supplies(job), report)


class Processes:
    """`workers` processes that share `threads` threads, by default as many as this process uses."""

    def __init__(self, workers: int, threads: int | None = None) -> None:
        self.workers = workers
        self.threads_each = max(1, (threads or field.threads()) // workers)

    def prove(self, jobs: Sequence[Job], report: Report) -> Generator[Proof, None, None]:
        """See Engine."""
        waiting, attempts = deque(jobs), Attempts()
        crew: list[_Worker] = []  # all of them busy
        try:
            while waiting or crew:
                while waiting and len(crew) < self.workers:
                    crew.append(_Worker(self.threads_each, waiting.popleft()))
                ready = wait([worker.connection for worker in crew])
                for worker in [worker for worker in crew if worker.connection in ready]:
                    said = worker.hear()
                    match said:
                        case Proof():
                            if waiting:
                                worker.begin(waiting.popleft())
                            else:
                                crew.remove(worker)
                                worker.stop()
                            yield said
                        case Exception():
                            raise said
                        case (phase, share):
                            report(worker.job.segment, phase, share)
                        case None:
                            crew.remove(worker)
                            waiting.appendleft(worker.job)
                            attempts.lost(worker.job.segment, worker.post_mortem())
        finally:
            for worker in crew:
                worker.stop()


class _Worker:
    """A worker process (worker.py) and the job it has."""

    def __init__(self, threads: int, job: Job) -> None:
        self.connection, theirs = Pipe()
        # -P: a folder called zkaudit where the user happens to be is not the package. A session of its own: Ctrl-C reaches
        # this process alone, which then ends the workers. The variable also limits numpy's own threads.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "zkaudit.zk.engine.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        theirs.close()
        self.begin(job)

    def begin(self, job: Job) -> None:
        """Hand it a job."""
        self.job = job
        with suppress(OSError):  # if it is gone, hear() will say so
            self.connection.send(job)

    def hear(self) -> Any:
        """A Proof, an Exception or (phase, share); None if the process is gone."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def post_mortem(self) -> str:
        """How a process that is gone has ended."""
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = 0
        self.stop()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ending with exit code {code}"

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
