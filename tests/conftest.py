"""What holds for every test: no time limit on one example, fixed examples in CI, no more threads than cores, proved runs."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from zkaudit_process import ODD, SMALLEST, Proved, proved

settings.register_profile("zkaudit", deadline=None, print_blob=True)
settings.register_profile("ci", parent=settings.get_profile("zkaudit"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "zkaudit")

workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@pytest.fixture(scope="session")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    return proved(tmp_path_factory.mktemp("smallest"), SMALLEST)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    return proved(tmp_path_factory.mktemp("odd"), ODD, "--segment-steps", "2")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The field core on this many threads."""
    from zkaudit.zk import field  # reads OMP_NUM_THREADS, set above, when it is loaded

    before = field.threads()
    field.set_threads(request.param)
    yield request.param
    field.set_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch and the BLAS on one thread: products of ten rows cost less than waking a second."""
    import torch  # reads OMP_NUM_THREADS, set above, when it is loaded
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(params=["twin", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device on which even the shortest results stay."""
    from zkaudit.zk import backend, gpu  # read OMP_NUM_THREADS, set above, when they are loaded
    from zkaudit.zk.errors import BadInput

    try:
        found = gpu.place(request.param)
    except BadInput as error:
        if request.param != "cuda":
            raise
        pytest.skip(str(error))
    monkeypatch.setattr(backend, "_SHORT", 0)
    return found
