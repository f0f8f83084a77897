"""The core's tests with a core that AddressSanitizer and UndefinedBehaviorSanitizer watch: they find nothing.

The core is built once more, in build/sanitize, and child processes load it in place of the one that is installed
(sanitized/sitecustomize.py). Leaks are not looked for: Python itself leaves memory behind when it ends.
"""

import fcntl
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from zkaudit.zk import backend

TESTS = Path(__file__).parent
SANITIZERS = "address,undefined"
CORE_TESTS = ("field", "mle", "kernels", "leaves", "gathered", "curve", "comb", "msm", "hash_to_curve", "torsion")

IFMA = pytest.mark.skipif(not backend.core.has_ifma(), reason="this CPU has no AVX-512 IFMA")
LANES = ["scalar", pytest.param("ifma", marks=IFMA)]

CORE_LOADED = "from zkaudit.zk import _twin, backend; print(backend.core.__file__, backend.curve_core.__file__, _twin.__file__)"

# Calls that break what the core's callers check: an input shorter than the output, and a length near the largest integer.
ARRAYS = """
import numpy as np
from zkaudit.zk import _twin, backend
short, long = (np.zeros((n, 12), np.uint64) for n in (40, 48))
"""
OUT_OF_BOUNDS = {
    "field": "backend.core.neg(short, long)",
    "curve": "backend.curve_core.neg(long, short)",
    "twin": "_twin.launch('neg', np.array([short.ctypes.data, long.ctypes.data], np.uint64).view(np.uint8), 3 * 48)",
}
OVERFLOW = "backend.core.exclusive_cumsum(short, long, 2**63 - 1)"


def run(command: list[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, text=True, cwd=TESTS.parent, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="session")
def runtime() -> str:
    """What a process must load before all else: AddressSanitizer, and the library whose exceptions it watches."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    with tempfile.TemporaryDirectory() as folder:
        program = [*compiler, f"-fsanitize={SANITIZERS}", "-x", "c++", "-", "-o", f"{folder}/program"]
        built = run(program, input="int main() {}", capture_output=True).returncode == 0
    names = ("libasan.so", "libstdc++.so.6")
    libraries = [run([*compiler, f"-print-file-name={name}"], capture_output=True).stdout.strip() for name in names]
    if not built or not all(map(os.path.isabs, libraries)):
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"the sanitizers need GCC with its libraries libasan and libubsan: '{shlex.join(compiler)}' lacks them")
    return " ".join(libraries)


@pytest.fixture(scope="session")
def core() -> Path:
    """The folder of the watched modules, up to date."""
    folder = TESTS.parent / "build" / "sanitize"
    folder.mkdir(parents=True, exist_ok=True)
    tools = Path(sys.executable).parent
    options = {
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "CMAKE_MAKE_PROGRAM": tools / "ninja",
        "Python_EXECUTABLE": sys.executable,
        "ZKAUDIT_SANITIZE": SANITIZERS,
    }
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run beside each other build once
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        run([tools / "cmake", "-G", "Ninja", "-S", TESTS.parent, "-B", folder, *definitions], check=True)
        run([tools / "ninja", "-C", folder, "-j1"], check=True)
    return folder


@pytest.fixture
def watched(runtime: str, core: Path) -> dict[str, str]:
    """The environment of a process with the watched core. A report ends it, with the Python calls that led there."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return inherited | {
        "SANITIZED_CORE": str(core),
        "PYTHONPATH": f"{TESTS / 'sanitized'}{os.pathsep}{TESTS}",
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:handle_segv=2",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
    }


def report(program: str, environment: Mapping[str, str]) -> str:
    """What a program that must not end well writes to stderr."""
    done = run([sys.executable, "-c", ARRAYS + program], env=environment, capture_output=True)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("lanes", LANES)
def test_the_core_that_is_loaded_is_the_watched_one(watched: dict[str, str], core: Path, lanes: str) -> None:
    done = run([sys.executable, "-c", CORE_LOADED], env=watched | {"ZKAUDIT_LANES": lanes}, capture_output=True)
    files = [Path(file) for file in done.stdout.split()]
    assert [file.parent for file in files] == [core] * 3, done.stderr
    assert [file.name.split(".")[0].endswith("_ifma") for file in files] == [lanes == "ifma"] * 2 + [False]


@pytest.mark.slow
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("module", OUT_OF_BOUNDS)
def test_an_access_out_of_bounds_is_reported(watched: dict[str, str], module: str, lanes: str) -> None:
    said = report(OUT_OF_BOUNDS[module], watched | {"ZKAUDIT_LANES": lanes})
    assert "AddressSanitizer: heap-buffer-overflow" in said, said
    assert "/cuda/" in said or "zkaudit::" in said  # where: a file of the core, or one of its functions


@pytest.mark.slow
@pytest.mark.parametrize("lanes", LANES)
def test_an_overflow_is_reported(watched: dict[str, str], lanes: str) -> None:
    said = report(OVERFLOW, watched | {"ZKAUDIT_LANES": lanes})
    assert "runtime error: signed integer overflow" in said, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lanes", "threads", "selection"),
    [
        ("scalar", 1, [f"tests/test_{name}.py" for name in (*CORE_TESTS, "zero_knowledge")]),
        pytest.param("ifma", 2, [f"tests/test_{name}.py" for name in (*CORE_TESTS, "zero_knowledge")], marks=IFMA),
        ("scalar", 2, ["tests/test_gpu.py", "-k", "twin"]),
    ],
    ids=["scalar", "ifma", "twin"],
)
def test_nothing_is_reported_in_the_core_s_tests(
    watched: dict[str, str], tmp_path: Path, lanes: str, threads: int, selection: list[str]
) -> None:
    environment = watched | {"ZKAUDIT_LANES": lanes, "OMP_NUM_THREADS": str(threads)}
    options = ["-q", "-p", "no:cacheprovider", "--capture=sys", f"--basetemp={tmp_path / 'inner'}", "--durations=5"]
    done = run([sys.executable, "-m", "pytest", *options, *selection], env=environment)
    assert done.returncode == 0
