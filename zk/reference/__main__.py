"""Verify proof files, slowly and independently of the fast verifier.

Several files are the segments of one chain; a folder stands for the files segment-*.zkp in it. Progress goes to standard
error. Ends in 0 if the proofs are valid, in 1 if they are not, and in 2 if there is nothing to verify.
"""

import argparse
import logging
import sys
from pathlib import Path

from . import Refused, verify_chain
from .statement import LARGEST_FILE, MAGIC


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m zkaudit.zk.reference", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a proof file, or a folder of segments")
    given: list[Path] = parser.parse_args().files
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(relativeCreated)7d ms  %(message)s")
    files = []
    for path in [member for folder in given for member in sorted(folder.glob("segment-*.zkp")) or [folder]]:
        try:
            with path.open("rb") as file:
                files.append(file.read(LARGEST_FILE + 1))
        except OSError as error:
            parser.exit(2, f"{path} cannot be read: {error.strerror}\n")
        if not files[-1].startswith(MAGIC):
            parser.exit(2, f"{path} is not a zkaudit proof file\n")
    try:
        statements = verify_chain(files)
    except Refused as error:
        print(f"not valid: {error}")
        return 1
    first, last = statements[0], statements[-1]
    print(f"valid: segments {first.segment} to {last.segment}, steps {first.first_step} to {last.first_step + last.steps - 1}")
    if first.segment:
        print(f"what came before segment {first.segment} is not proved by these files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
