"""Arrays and kernels on an NVIDIA GPU, and a twin of it on the CPU.

`place("cuda")` is the GPU: arrays that are put there are worked on there, by the calls of zk.field, zk.mle, zk.kernels and
zk.curve that work on host arrays too. `place("twin")` runs the same kernels on the CPU: slow, and what tests them.
"""

from zkaudit.zk.gpu.choice import place

__all__ = ["place"]
