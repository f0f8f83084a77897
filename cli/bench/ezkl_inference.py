"""One inference of an MLP proved by ezkl: the network as an ONNX file, ezkl's own calibration, and a set-up made here."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ezkl
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCALE = 8  # fractional bits of inputs and weights, as many as our activations have
OPERATORS, FORMAT = 13, 8  # versions of ONNX that ezkl reads


@dataclass(frozen=True)
class Inference:
    """Seconds of witness and proof together (median), of the keys once a network, of verifying; and the proof's size."""

    seconds: float
    set_up_seconds: float
    verify_seconds: float
    proof_bytes: int
    log_rows: int
    version: str


def prove(folder: Path, widths: tuple[int, ...], repeats: int) -> Inference:
    """Prove one inference `repeats` times, with private inputs and weights and public outputs."""
    paths = {name: str(folder / name) for name in ("network.onnx", "input.json", "settings.json", "circuit", "srs", "vk", "pk")}
    witness, proof = str(folder / "witness.json"), folder / "proof.json"
    onnx.save(network(widths), paths["network.onnx"])
    sample = np.random.default_rng(0).uniform(0, 1, widths[0])
    Path(paths["input.json"]).write_text(json.dumps({"input_data": [sample.tolist()]}))
    _calibrate(paths)
    log_rows = json.loads(Path(paths["settings.json"]).read_text())["run_args"]["logrows"]
    ezkl.compile_circuit(paths["network.onnx"], paths["circuit"], paths["settings.json"])
    ezkl.gen_srs(paths["srs"], log_rows)
    started = time.perf_counter()
    ezkl.setup(paths["circuit"], paths["vk"], paths["pk"], srs_path=paths["srs"])
    set_up, seconds = time.perf_counter() - started, []
    for _ in range(repeats):
        started = time.perf_counter()
        ezkl.gen_witness(paths["input.json"], paths["circuit"], witness)
        ezkl.prove(witness, paths["circuit"], paths["pk"], str(proof), srs_path=paths["srs"])
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    if not ezkl.verify(str(proof), paths["settings.json"], paths["vk"], srs_path=paths["srs"]):
        raise AssertionError("ezkl does not verify its own proof")
    verify = time.perf_counter() - started
    size = len(bytes(json.loads(proof.read_text())["proof"]))
    return Inference(statistics.median(seconds), set_up, verify, size, log_rows, version("ezkl"))


def network(widths: tuple[int, ...]) -> Any:
    """Fully connected layers with ReLU in between, weights random, as an ONNX model of one sample (1, widths[0])."""
    random, nodes, weights, value = np.random.default_rng(0), [], [], "x"
    for j, (d, units) in enumerate(itertools.pairwise(widths)):
        limit = d**-0.5
        for name, shape in ((f"w{j}", (d, units)), (f"b{j}", (units,))):
            weights.append(numpy_helper.from_array(random.uniform(-limit, limit, shape).astype(np.float32), name))
        nodes.append(helper.make_node("Gemm", [value, f"w{j}", f"b{j}"], [f"z{j}"]))
        value = f"z{j}"
        if j < len(widths) - 2:
            nodes.append(helper.make_node("Relu", [value], [f"a{j}"]))
            value = f"a{j}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, d]) for n, d in (("x", widths[0]), (value, widths[-1]))]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPERATORS)])
    model.ir_version = FORMAT
    return model


def _calibrate(paths: dict[str, str]) -> None:
    arguments = ezkl.PyRunArgs()
    arguments.input_visibility, arguments.param_visibility, arguments.output_visibility = "private", "private", "public"
    arguments.input_scale = arguments.param_scale = SCALE
    ezkl.gen_settings(paths["network.onnx"], paths["settings.json"], py_run_args=arguments)
    ezkl.calibrate_settings(paths["input.json"], paths["network.onnx"], paths["settings.json"], "resources", scales=[SCALE])
