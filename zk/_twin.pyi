"""The GPU's kernels as the CPU runs them (cuda/cpu/twin_module.cpp)."""

import numpy as np
import numpy.typing as npt

def launch(kernel: str, body: npt.NDArray[np.uint8], threads: int) -> None: ...
def kernels() -> list[str]: ...
