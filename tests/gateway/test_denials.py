"""What is refused is counted by its reason: limits of a token, and tools that await approval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcpcp import limits
from tests.gateway.harness import Gateway, Way, call, modern, modern_headers
from tests.gateway.test_servers_away import failing

pytestmark = pytest.mark.anyio


def counted(gateway: Gateway) -> dict[str, int]:
    """The refusals so far, by reason, where there are some."""
    lines = gateway.metrics().splitlines()
    found = [line.partition('mcpcp_denied_total{reason="')[2] for line in lines]
    pairs = [line.split('"} ') for line in found if line]
    return {reason: int(float(count)) for reason, count in pairs if float(count)}


async def test_a_call_over_a_limit_counts_as_that_limit(gateway: Gateway, tmp_path: Path) -> None:
    rules = {"arguments": {"raw:echo": {"properties": {"message": {"maxLength": 3}}}}}
    held = limits.of({"calls_per_minute": 2, **rules})
    token = gateway.token_for("somebody", {"raw": ["*"]}, held_to=held)
    before = counted(gateway)
    async with gateway.http(token) as http:
        codes: list[Any] = []
        for message in ("too long", "one", "two", "six"):
            body = modern("tools/call", call("raw_echo", message=message))
            answer = (await http.post("/mcp", json=body, headers=modern_headers(body))).json()
            codes.append(answer.get("error", {}).get("data", {}).get("rule"))
    after = counted(gateway)
    rose = {reason: n - before.get(reason, 0) for reason, n in after.items()}
    assert codes.count("arguments") == rose["arguments"] == 1
    assert codes.count("calls_per_minute") == rose["calls_per_minute"] == codes.count(None) - 1 == 1


async def test_a_tool_that_awaits_approval_is_counted_and_its_calls_are_told_apart(
    fresh: Gateway,
) -> None:
    fresh.add_raw("raw", pin="quarantine")
    fresh.start()
    assert 'mcpcp_tools_withheld{server="raw"} 0.0' in fresh.metrics()
    assert fresh.stop() == 0
    arguments = fresh.servers["raw"]["args"]
    arguments[arguments.index("--name") + 1] = "yore"  # which all its descriptions say
    fresh.start()
    async with fresh.client(Way("http", "auto")) as client:
        error = await failing(client, "raw_echo", message="hi")
        assert error.error.message == "Unknown tool: raw_echo"
    assert 'mcpcp_tools_withheld{server="raw"} 0.0' not in fresh.metrics()
    assert counted(fresh) == {"withheld": 1}
    (line,) = fresh.audit()
    assert (line["server"], line["tool"], line["outcome"]) == ("raw", "echo", "denied")
    assert "mcpcp tools diff" in line["reason"]
