"""Files that only their owner can read, written to disk before they count; failures name the path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zkaudit.training.errors import TrainingError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write at `path` (full disk, missing rights) into a TrainingError."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"cannot write {error.filename or path}: {error.strerror or error}") from error


def create(path: Path) -> BinaryIO:
    """A new or emptied file, mode 0600, open for writing."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def synchronise(file: BinaryIO) -> None:
    """Flush to the disk and close."""
    with file:
        file.flush()
        os.fsync(file.fileno())


def synchronise_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or not there."""
    temporary = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            file = create(temporary)
            with file:
                file.write(content)
                synchronise(file)
            temporary.replace(path)
            synchronise_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
