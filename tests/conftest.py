"""What every test may ask for."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.engine import await_keepers
from tests.fleet import Fleet, make_keys, open_fleet
from tests.ports import reserve

# the machine is shared: how long an example takes says nothing
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

# Who is started in a shell's background ignores Ctrl+C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(trylast=True)  # the fixtures that were still open have let go of their engines
def pytest_sessionfinish() -> None:
    await_keepers()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def project() -> Path:
    """The checkout."""
    return PROJECT


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """Makes ports that are free now, and that no other test, in any worker, is given."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(reserve())


@pytest.fixture
def stranger() -> Iterator[Callable[[int], socket.socket]]:
    """Takes a port as somebody else's program would."""
    with ExitStack() as stack:

        def take(port: int) -> socket.socket:
            return stack.enter_context(socket.create_server(("127.0.0.1", port)))

        yield take


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key ring for every fleet of this worker."""
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def fleet(tmp_path: Path, keys: Path) -> Iterator[Fleet]:
    """A fleet to configure and launch; at the end nothing of it may be left."""
    with open_fleet(tmp_path, keys) as opened:
        yield opened


def pytest_configure() -> None:
    """Have the SDK's client wait for servers that it starts, probes and ends: how long they take on
    a busy machine says nothing."""
    from mcp.client import session, stdio

    session.DISCOVER_TIMEOUT_SECONDS = 90.0
    stdio.PROCESS_TERMINATION_TIMEOUT = stdio.FORCE_KILL_TIMEOUT = 90.0
