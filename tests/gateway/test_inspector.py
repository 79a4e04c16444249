"""The MCP Inspector's CLI, an independent client in TypeScript, lists and calls our tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.harness import Gateway
from tests.inspector import Inspector, install

pytestmark = [pytest.mark.npm, pytest.mark.timeout(1800)]

ERAS = ["legacy", "modern", "auto"]
CALL = ("--method", "tools/call", "--tool-name", "raw_echo", "--tool-arg", "message=hi there")


@pytest.fixture(scope="session")
def installed() -> Path:
    return install()


@pytest.fixture
def inspector(installed: Path, tmp_path: Path) -> Inspector:
    return Inspector(installed, tmp_path)


def over_http(gateway: Gateway, path: str = "/mcp") -> list[str]:
    transport = "sse" if path == "/sse" else "http"
    header = f"Authorization: {gateway.headers(gateway.token('echo_only'))['Authorization']}"
    return [gateway.url(path), "--transport", transport, "--header", header]


def over_stdio(gateway: Gateway) -> list[str]:
    command = [sys.executable, "-m", "mcpcp", "stdio", "--no-launch", "--config"]
    return [
        "-e",
        f"MCPCP_TOKEN={gateway.token('echo_only')}",
        "-e",
        f"XDG_RUNTIME_DIR={gateway.environ['XDG_RUNTIME_DIR']}",
        "--",
        *command,
        str(gateway.config),
    ]


def names(result: Any) -> list[str]:
    return [tool["name"] for tool in result["tools"]]


@pytest.mark.parametrize("era", ERAS)
def test_it_lists_and_calls_over_streamable_http(
    gateway: Gateway, inspector: Inspector, era: str
) -> None:
    target = [*over_http(gateway), "--protocol-era", era]
    assert names(inspector.ask(*target, "--method", "tools/list")) == ["raw_echo"]
    assert inspector.ask(*target, *CALL)["content"] == [{"type": "text", "text": "hi there"}]


def test_it_lists_and_calls_over_sse(gateway: Gateway, inspector: Inspector) -> None:
    target = over_http(gateway, "/sse")
    assert names(inspector.ask(*target, "--method", "tools/list")) == ["raw_echo"]
    assert inspector.ask(*target, *CALL)["content"][0]["text"] == "hi there"


@pytest.mark.parametrize("era", ERAS)
def test_it_lists_and_calls_over_stdio(gateway: Gateway, inspector: Inspector, era: str) -> None:
    target = ["--protocol-era", era]
    listed = inspector.ask(*target, "--method", "tools/list", *over_stdio(gateway))
    assert names(listed) == ["raw_echo"]
    assert inspector.ask(*target, *CALL, *over_stdio(gateway))["content"][0]["text"] == "hi there"
