"""What the tests of packages may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.packages.lock import Target
from servers.sandboxing import bubblewrap
from tests.engine import absent
from tests.servers.packages.index import Index, serving


@pytest.fixture
def index() -> Iterator[Index]:
    """An index on loopback."""
    with serving() as opened:
        yield opened


@pytest.fixture
def target() -> Target:
    """Packages of Python alone are made for any."""
    if bubblewrap.find_bwrap() is None:
        absent("bubblewrap")
    return Target("3.11", "x86_64-manylinux_2_28")
