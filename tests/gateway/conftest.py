"""Gateways for the tests of this folder: one a module and worker, or one a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gateway.harness import Gateway, open_gateway


@pytest.fixture
def fresh(tmp_path: Path, keys: Path) -> Iterator[Gateway]:
    """A gateway of this test alone, which the test configures and starts."""
    with open_gateway(tmp_path, keys) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Gateway]:
    """A running gateway in front of three raw servers, for tests that leave it as it was."""
    with ExitStack() as stack:
        made = stack.enter_context(open_gateway(tmp_path_factory.mktemp("gateway"), keys))
        made.add_raw("raw")
        made.add_raw("other", prefix="o")
        made.add_raw("plain", "--tool", "bare", prefix="", tools={"allow": ["bare"]})
        made.agents |= {
            "other_only": {"allow": {"other": ["*"]}},
            "echo_only": {"allow": {"raw": ["echo"]}},
            "nothing": {"allow": {}},
        }
        made.start()
        yield made
