"""The pytest option `--zk-cheats`: every `Protocol` that a test module holds becomes a suite.

    pytest --zk-cheats=all my_protocols.py            complete, bound, every cheat, sessions, hiding
    pytest --zk-cheats=lie,swap my_protocols.py       only these cheats
    pytest --zk-cheats=list                           the cheats there are

Without the option nothing is collected, and nothing of zkaudit is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zkaudit.zk.testing import Protocol


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("zkaudit", "property tests for zero-knowledge protocols (zkaudit)")
    group.addoption(
        "--zk-cheats",
        metavar="NAMES",
        default="",
        help="test every zkaudit.zk.testing.Protocol found in test modules: 'all', or names of cheats with commas; "
        "'list' shows them",
    )
    group.addoption("--zk-examples", metavar="N", type=int, help="examples of each check, instead of what the protocol says")


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """`list` prints instead of testing; a name that is no cheat's ends the run at once."""
    if config.getoption("--zk-cheats") != "list":
        return None
    from zkaudit.zk.testing import GENERIC

    for cheat in GENERIC.values():
        print(f"{cheat.name:22}{cheat.what}")
    return 0


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> Any:
    names = collector.config.getoption("--zk-cheats")
    if not names or not isinstance(collector, pytest.Module):
        return None
    from zkaudit.zk.testing import Protocol

    if not isinstance(obj, Protocol):
        return None
    return Suite.from_parent(collector, name=name, protocol=obj, names=names)


class Suite(pytest.Collector):
    """All checks of one protocol."""

    def __init__(self, *, protocol: Protocol, names: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.protocol, self.names = protocol, names

    def collect(self) -> Iterator[pytest.Item]:
        from zkaudit.zk.testing import assert_bound, assert_complete, assert_hiding, assert_sessions, assert_sound
        from zkaudit.zk.testing.cheats import chosen

        protocol, examples = self.protocol, self.config.getoption("--zk-examples")
        try:
            cheats = chosen(protocol, self.names)
        except ValueError as error:
            raise pytest.UsageError(f"--zk-cheats: {error}") from None
        checks: dict[str, Callable[[], None]] = {
            f"sound[{cheat.name}]": partial(assert_sound, protocol, [cheat], examples=examples) for cheat in cheats
        }
        if self.names == "all":
            checks |= {
                "complete": partial(assert_complete, protocol, examples),
                "bound": partial(assert_bound, protocol, examples),
                "sessions": partial(assert_sessions, protocol, examples),
            }
            if protocol.simulable:
                checks["hiding"] = partial(assert_hiding, protocol)
        for name, check in checks.items():
            yield Check.from_parent(self, name=name, check=check)


class Check(pytest.Item):
    """One check of one protocol; a counter-example is shown as it is, without a traceback."""

    def __init__(self, *, check: Callable[[], None], **rest: Any) -> None:
        super().__init__(**rest)
        self.check = check

    def runtest(self) -> None:
        from zkaudit.zk.testing import NotApplicable

        try:
            self.check()
        except NotApplicable as error:
            pytest.skip(str(error))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from zkaudit.zk.testing import CounterExample

        if isinstance(excinfo.value, CounterExample):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, f"{self.parent.name if self.parent else ''}::{self.name}"
