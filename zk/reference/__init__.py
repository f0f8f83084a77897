"""An independent verifier, written from docs/proof-format.md alone, section by section. It runs by itself, with py_ecc only."""

from itertools import pairwise

from .conventions import Refused, decode, demand, log
from .dialogue import Dialogue
from .layout import Layout
from .lookups import lookups
from .settlement import settle
from .statement import Statement, read_file
from .training import Network, elementwise, matrix_products, update_history

__all__ = ["Refused", "Statement", "verify_bytes", "verify_chain"]
KEPT = ("data", "widths", "loss", "batch", "rows", "activation_bits", "gradient_bits", "weight_bits", "seed", "batch_seed",
        "columns")  # fmt: skip


def verify_bytes(file: bytes) -> Statement:
    """The statement that a proof file proves; Refused if it is no valid proof."""
    s, proof = read_file(file)
    layout, dialogue = Layout(s), Dialogue(proof)
    for name, section, blocks in (("data", s.data, layout.data), ("start", s.start, layout.start), ("end", s.end, layout.end)):
        demand(len(section) == layout.size(blocks), f"the commitment {name!r} has another size")
    demand(len(proof) >= layout.size(layout.witness + layout.counts), "the proof is shorter than its commitments")
    log.info("segment %d, %d steps: commitments", s.segment, s.steps)
    for name in ("header", "data", "start", "end"):
        dialogue.absorb(name, getattr(s, name))
    witness = dialogue.read("witness", layout.size(layout.witness))
    counts = dialogue.read("multiplicities", layout.size(layout.counts))
    rows = decode(s.data + s.start + s.end + witness + counts)
    log.info("lookups")
    claims = lookups(dialogue, layout, s.activation_bits)
    log.info("training")
    network = Network(s)
    products = [matrix_products(dialogue, s, network, forward) for forward in (True, False)[: s.layers]]
    claims += [claim for pair, _ in products for claim in pair]
    claims += update_history(dialogue, s, network, [weight_claim for _, weight_claim in products])
    claims += elementwise(dialogue, s, network)
    log.info("final equation: generators for %d columns and at least %d slots", 1 << s.columns, len(dialogue.slots))
    settle(dialogue, layout, claims, rows)
    return s


def verify_chain(files: list[bytes]) -> list[Statement]:
    """The statements of a chain's files, by segment; Refused if one is no valid proof or continues not the one before."""
    statements = sorted(map(verify_bytes, files), key=lambda s: s.segment)
    for before, after in pairwise(statements):
        expected = {key: getattr(before, key) for key in KEPT} | {
            "segment": before.segment + 1, "first_step": before.first_step + before.steps, "start": before.end,
            "start_bound": before.end_bound, "previous": before.digest,
        }  # fmt: skip
        for key, value in expected.items():
            demand(getattr(after, key) == value, f"segment {after.segment} does not continue the one before it: {key}")
    return statements
