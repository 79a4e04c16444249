"""A client's first list has what its servers have just said that they offer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mcpcp import registry, service
from mcpcp.config import loads
from mcpcp.policy import Allowlist
from tests.gateway.harness import FOREVER, PATIENCE
from tests.gateway.rude_http import rude_http

pytestmark = pytest.mark.anyio

ALL = Allowlist.of({"*": ["*"]})


async def never(message: Any, writer: asyncio.StreamWriter) -> None:
    """No answer to any call."""


async def test_a_server_that_has_come_is_on_the_list_before_the_next_catalog_is_due(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_DEBOUNCE", 1.0)
    async with rude_http(never) as rude:
        text = (
            f'{{"mcpServers": {{"rude": {{"url": "{rude.server.url}"}}}},'
            f' "gateway": {{"first_list_wait": "{FOREVER}"}}, "keys_dir": "{keys}"}}'
        )
        config = loads(text, tmp_path / "mcpcp.json", {})
        async with asyncio.timeout(PATIENCE), service.running_gateway(config, None) as gateway:
            while not gateway.registry.backend("rude").connected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await gateway.registry.first_offers(ALL)
            assert list(gateway.registry.catalog.entries["tool"]) == ["rude_do"]
