"""Where a log and its keys are."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpcp import keyring


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = tmp_path_factory.mktemp("audit") / "keys"
    keyring.ensure(keys, bits=2048)
    return keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "audit.jsonl"
