"""The network's virtual tensors in terms of committed blocks: said once, for prover and verifier alike.

Activations A, gradients G and pre-activations Z are never committed. A weighted sum of their entries is a weighted sum of
entries of committed blocks and of products of two of them; each method here adds that to a claim."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zkaudit.zk import field, relu
from zkaudit.zk.block import SIGN_OFFSET, padded
from zkaudit.zk.circuit import galore
from zkaudit.zk.circuit.arithmetic import add_limbs, add_signed
from zkaudit.zk.circuit.step import Tensor
from zkaudit.zk.claims import Claim, extended
from zkaudit.zk.field import Array
from zkaudit.zk.layout import Layout
from zkaudit.zk.statement import ACTIVATION_RANGE


@dataclass(frozen=True)
class Network:
    """The network's tensors in terms of committed blocks. `batches` are the data-set rows of each sample, in order."""

    layout: Layout
    batches: NDArray[np.int64]

    def add(self, claim: Claim, tensor: Tensor, units: Array, samples: Array) -> None:
        """<tensor, units x samples>, for the factors of a step's products and updates (circuit/step.py)."""
        j, named = tensor.layer, self.layout.named
        if tensor.kind == "activation":
            self.activation(claim, j, units, samples)
        elif tensor.kind == "input":
            self.activation(claim, j, np.concatenate([units, field.zeros(1)]), samples)
        elif tensor.kind == "gradient":
            self.gradient(claim, j, units, samples)
        elif tensor.kind in ("hidden", "hidden_gradient"):
            add_signed(claim, named[f"{'h' if tensor.kind == 'hidden' else 'gh'}{j}"], 1, units, samples)
        elif tensor.kind == "basis":
            galore.add_basis(self._projected[j], named, claim, units, samples)
        else:
            galore.add_direction(self._projected[j], named, claim, units, samples)

    def add_result(self, claim: Claim, tensor: Tensor, coefficient: int, units: Array, samples: Array) -> None:
        """coefficient * <tensor, units x samples>, for the results of a step's products."""
        if tensor.kind == "preactivation":
            self.preactivation(claim, tensor.layer, coefficient, units, samples)
        elif tensor.kind == "activation_gradient":
            self.activation_gradient(claim, tensor.layer, coefficient, units, samples)
        else:
            name = f"{'h' if tensor.kind == 'hidden_product' else 'gh'}{tensor.layer}"
            units, samples = extended(units, self.layout.named[name].highs), extended(samples, self.layout.samples)
            add_signed(claim, self.layout.named[name], coefficient << self.layout.statement.weight_bits, units, samples)
            self._remainder(claim, f"{name}.r", coefficient, units, samples)

    @cached_property
    def _projected(self) -> list[galore.Projected]:
        return galore.layers(self.layout.statement)

    def activation(self, claim: Claim, j: int, inputs: Array, samples: Array) -> None:
        """<A_j, inputs x samples>, inputs (d_j + 1, 4) with the bias column last, samples (steps * batch, 4)."""
        s, named = self.layout.statement, self.layout.named
        total, units = field.total(samples), inputs[:-1]
        if j == 0:
            self._data(claim, "x", 1, units, samples)
            claim.add_constant(-SIGN_OFFSET * field.total(units) * total)
        else:
            claim.add_product(named[f"p{j - 1}"], *relu.forward_forms(s, j - 1), 1, units, samples)
        claim.add_constant((field.to_ints(inputs[-1:])[0] * total) << s.activation_bits)

    def gradient(self, claim: Claim, j: int, outputs: Array, samples: Array) -> None:
        """<G_j, outputs x samples>, outputs (d_{j+1}, 4), samples (steps * batch, 4)."""
        s, named = self.layout.statement, self.layout.named
        if j < s.layers - 1:
            claim.add_product(named[f"ga{j}"], *relu.backward_forms(s, j), 1, outputs, samples)
        elif s.loss == "cross_entropy":
            claim.add_block(named["q"], 1, outputs, samples)
            self._data(claim, "y", -(1 << s.gradient_bits), outputs, samples)
        else:
            scale = 1 << (s.gradient_bits - s.activation_bits)
            claim.add_block(named["z"], scale, outputs, samples)
            claim.add_constant(-SIGN_OFFSET * scale * field.total(outputs) * field.total(samples))
            self._data(claim, "y", -scale, outputs, samples)

    def preactivation(self, claim: Claim, j: int, coefficient: int, outputs: Array, samples: Array) -> None:
        """coefficient * <Z_j, outputs x samples> with Z_j = 2^w Z'_j + R_j - 2^(w-1)."""
        s, named = self.layout.statement, self.layout.named
        scale, ones = coefficient << s.weight_bits, field.total(outputs) * field.total(samples)
        outputs, samples = extended(outputs, padded(len(outputs))), extended(samples, self.layout.samples)
        if j < s.layers - 1:
            claim.add_block(named[f"p{j}"], scale, outputs, samples)
            claim.add_block(named[f"b{j}"], -scale << ACTIVATION_RANGE, outputs, samples)
        elif s.loss == "square":
            claim.add_block(named["z"], scale, outputs, samples)
            claim.add_constant(-scale * SIGN_OFFSET * ones)
        else:
            every = field.from_ints([field.total(outputs)])
            claim.add_block(named["m"], scale, every, samples)
            claim.add_block(named["d"], -scale, outputs, samples)
            claim.add_constant(-scale * SIGN_OFFSET * ones)
        self._remainder(claim, f"r{j}", coefficient, outputs, samples)

    def activation_gradient(self, claim: Claim, j: int, coefficient: int, outputs: Array, samples: Array) -> None:
        """coefficient * <G_{j+1} W_{j+1}^T, outputs x samples> = coefficient * <2^w GA'_j + RG_j - 2^(w-1), ..>."""
        s, named = self.layout.statement, self.layout.named
        scale = coefficient << s.weight_bits
        outputs, samples = extended(outputs, padded(len(outputs))), extended(samples, self.layout.samples)
        claim.add_block(named[f"ga{j}"], scale, outputs, samples)
        claim.add_constant(-scale * SIGN_OFFSET * field.total(outputs) * field.total(samples))
        self._remainder(claim, f"rg{j}", coefficient, outputs, samples)

    def weights(self, claim: Claim, name: str, m: int, coefficient: int, inputs: Array, outputs: Array) -> None:
        """coefficient * <matrix m, inputs x outputs> of the "start" or "end" commitment; inputs with the bias row last."""
        matrix, named = self.layout.matrices[m], self.layout.named
        name = f"{self.layout.prefix(m, name)}{matrix.name}"
        claim.add_block(named[name], coefficient, outputs, inputs[:-1] if matrix.has_bias else inputs)
        if matrix.has_bias:
            bias = field.to_ints(inputs[-1:])[0]
            claim.add_block(named[f"{name}.bias"], coefficient * bias, field.full(1, 1), outputs)

    def _remainder(self, claim: Claim, name: str, coefficient: int, outputs: Array, samples: Array) -> None:
        width = self.layout.statement.weight_bits
        add_limbs(claim, self.layout.named, name, coefficient, width, outputs, samples)
        claim.add_constant(-(coefficient << (width - 1)) * field.total(outputs) * field.total(samples))

    def _data(self, claim: Claim, name: str, coefficient: int, units: Array, samples: Array) -> None:
        block = self.layout.named[name]
        gathered = field.scatter_add(samples, self.batches.reshape(-1), block.lows)
        claim.add_block(block, coefficient, units, gathered)
