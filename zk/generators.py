"""Generators by domain tag: prefixes of endless lists, hashed to the curve once and kept in a file.

Deriving thousands of generators costs a verifier more than all its other work, and they are always the same. So they are kept
in the user's cache folder, in pieces, each checked against a digest that stands below whenever it is read: a file that was
changed, cut short or never written costs time and nothing else. ZKAUDIT_CACHE names another folder, or none if empty.
"""

from __future__ import annotations

import contextlib
import os
from hashlib import sha256
from pathlib import Path

import numpy as np

from zkaudit.zk import curve
from zkaudit.zk.curve import Points

PIECE = 1 << 12
FEW = 256  # as many are derived without a piece around them

COLUMNS_DOMAIN = b"zkaudit-v1-columns-BLS12381G1_XMD:SHA-256_SSWU_NU_"
SLOTS_DOMAIN = b"zkaudit-v1-slots-BLS12381G1_XMD:SHA-256_SSWU_NU_"
SINGLE_DOMAIN = b"zkaudit-v1-single-BLS12381G1_XMD:SHA-256_SSWU_NU_"

DIGESTS = {  # SHA-256 of each piece's coordinates as in curve.Points; pieces after these are always derived
    COLUMNS_DOMAIN: (
        "624361f8039d65dcfc7d95d97f070149b39475b48332a5de422647a8b167aadd",
        "f232361ce7f5ae535bcdbde2d474fa0f58d3255b5394330b7ce992dc5d205ed3",
        "01f891a8aab36a42a6972653ada8435e18ae0615736bc0bd13cae073744d4879",
        "e4c002851c7c272412097fcf9fd56d77da1885a5a5ac9d9070d523c37edded79",
        "111b338668631629353de48841e2d5855d62344de4facdde8644d84c002c7e8f",
        "27d726b76f0fd77508aa7acafa23a3bc6d39b146058757c8f5affb722e9205b7",
        "45ce362f0fc111ab89bb2a64679461f82c6e22ab5ecb6cc44d79727f998f712b",
        "f35a0c1fed2e2459cd0b451a049edd50744f22fde6d50b997b73aae90d37c50b",
    ),
    SLOTS_DOMAIN: ("68e4411d4dbf596ce961836237a66cddecbab3760dca6221be8cc26707b344c6",),
}

_known: dict[bytes, Points] = {}


def prefix(domain: bytes, count: int) -> Points:
    """The first `count` generators under `domain`, shape (count, 12)."""
    known = _known.get(domain, np.empty((0, 12), np.uint64))
    if len(known) < count:
        if count <= FEW:
            known = np.concatenate([known, curve.generators(domain, count - len(known), len(known))])
        else:
            whole = len(known) // PIECE * PIECE
            pieces = [_piece(domain, i) for i in range(whole // PIECE, -(-count // PIECE))]
            known = np.concatenate([known[:whole], *pieces])
        _known[domain] = known
    return known[:count]


def _piece(domain: bytes, i: int) -> Points:
    digests = DIGESTS.get(domain, ())
    path = _cache_file(domain, i) if i < len(digests) else None
    if path is not None:
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if sha256(data).hexdigest() == digests[i]:
                return np.frombuffer(data, "<u8").reshape(PIECE, 12).astype(np.uint64)
    points = curve.generators(domain, PIECE, i * PIECE)
    if path is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written is none
            _write(path, points.astype("<u8").tobytes())
    return points


def _cache_file(domain: bytes, i: int) -> Path | None:
    folder = os.environ.get("ZKAUDIT_CACHE")
    if folder is None:
        folder = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(folder, "zkaudit")
    return Path(folder) / f"{domain.split(b'-BLS')[0].decode()}-{i}.bin" if folder else None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
