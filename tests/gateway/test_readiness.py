"""/ready says that every server that can start has; who starts in a moment is waited for."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.backends.raw import serving
from tests.gateway.harness import PATIENCE, Gateway, Way
from tests.gateway.rude_http import RudeHttp

pytestmark = pytest.mark.anyio

HTTP = Way("http", "auto")


def not_ready(gateway: Gateway) -> list[str]:
    """Which servers are waited for; empty when it is ready."""
    status, text = gateway.get("/ready")
    assert status in (200, 503)
    waited: list[str] = json.loads(text).get("waiting_for", [])
    return waited if status == 503 else []


async def test_a_url_that_answers_late_is_waited_for(
    fresh: Gateway, free_port: Callable[[], int]
) -> None:
    port = free_port()
    fresh.settings["first_list_wait"] = "600s"
    fresh.servers["late"] = {"url": f"http://127.0.0.1:{port}/mcp"}
    with socket.create_server(("127.0.0.1", port)) as unwilling:
        unwilling.settimeout(PATIENCE)
        fresh.start(ready=False)
        for _ in range(2):  # who comes for the second time has failed once
            (await asyncio.to_thread(unwilling.accept))[0].close()
        assert not_ready(fresh) == ["late"]
    async with serving(RudeHttp(never_asked).handle, port=port):
        await fresh.until(lambda: fresh.get("/ready")[0] == 200, "not ready")
        async with fresh.client(HTTP) as client:
            assert "late_do" in {t.name for t in (await client.list_tools()).tools}
        await asyncio.to_thread(fresh.stop)


async def never_asked(message: Any, writer: asyncio.StreamWriter) -> None:
    raise AssertionError(message)


async def test_a_url_where_nobody_answers_holds_nobody_up_for_ever(
    fresh: Gateway, free_port: Callable[[], int]
) -> None:
    fresh.settings["first_list_wait"] = "1s"
    fresh.servers["away"] = {"url": f"http://127.0.0.1:{free_port()}/mcp"}
    fresh.add_raw("raw")
    fresh.start(ready=False)
    await fresh.until(lambda: fresh.get("/ready")[0] == 200, "not ready")
    async with fresh.client(HTTP) as client:
        assert "raw_echo" in {t.name for t in (await client.list_tools()).tools}


async def test_a_url_that_takes_connections_and_says_nothing_does_not_either(
    fresh: Gateway,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fresh.settings["first_list_wait"] = "1s"
        fresh.servers["silent"] = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"}
        fresh.start(ready=False)
        await fresh.until(lambda: fresh.get("/ready")[0] == 200, "not ready")


async def test_a_new_entry_where_nobody_answers_leaves_a_gateway_ready(
    fresh: Gateway, free_port: Callable[[], int]
) -> None:
    fresh.settings["first_list_wait"] = "600s"
    fresh.add_raw("raw")
    fresh.start()
    fresh.servers["away"] = {"url": f"http://127.0.0.1:{free_port()}/mcp"}
    fresh.write()
    seen = fresh.wait(lambda: 'server="away"' in fresh.metrics(), "the entry is not in force")
    assert seen
    await fresh.until(lambda: fresh.get("/ready")[0] == 200, "not ready")


async def test_a_program_that_does_not_start_is_not_waited_for(fresh: Gateway) -> None:
    fresh.settings["first_list_wait"] = "600s"
    fresh.servers["broken"] = {"command": sys.executable, "args": ["-c", "raise SystemExit(1)"]}
    fresh.start(ready=False)
    await fresh.until(lambda: fresh.get("/ready")[0] == 200, "not ready")
