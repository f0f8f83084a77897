"""A worker process: proves the jobs that come through a connection, one after the other, until the connection closes.

    python -m zkaudit.zk.engine.worker DESCRIPTOR

Into it: jobs. Out of it: (phase, share) while a job is in work, then a Proof or an Exception.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

from zkaudit.zk.engine.job import Job, answer, supplies


def main(descriptor: int) -> None:
    """Work until whoever holds the other end is gone."""
    connection: Connection = Connection(descriptor)
    jobs: SimpleQueue[Job] = SimpleQueue()
    Thread(target=_listen, args=(connection, jobs), daemon=True).start()
    try:
        while True:
            job = jobs.get()
            connection.send(answer(job, supplies, lambda _, phase, share: connection.send((phase, share))))
    except OSError:
        return  # nobody is left to hear the answer


def _listen(connection: Connection, jobs: SimpleQueue[Job]) -> None:
    """Queue what comes. A main process that is gone, killed perhaps, ends this one in the middle of its work."""
    try:
        while True:
            jobs.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
