#!/usr/bin/env python3
"""What each agent of the config sees and may do: lists its tools, calls one, and is refused one.

Start the servers first (`python3 launch_servers.py`), then run this beside them. It is also the
shortest example of a client: a token in the Authorization header, the SDK's Client, the gateway's
URL.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcpcp.config import Config
    from mcpcp.policy import Allowlist


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, help="the config (default: ./mcpcp.json)")
    parser.add_argument("--agent", help="only this agent")
    parser.add_argument("--no-bootstrap", action="store_true", help="run with this Python as it is")
    return parser.parse_args()


async def list_tools(config: Config, agent: str) -> list[str]:
    """Connect as `agent`, print what it sees, call a tool; the names of its tools."""
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    from mcpcp.tokens import TokenSource

    token = TokenSource(config, agent).token()
    print(f"🔍 Getting tools for agent: {agent}")
    mcp_servers = [name for name, server in config.active.items() if server.speaks_mcp]
    servers = [name for name in mcp_servers if config.agents[agent].reaches(name)]
    print(f"📋 Agent has access to servers: {servers}")
    headers = {"Authorization": f"Bearer {token}"}
    url = f"http://{config.gateway.host}:{config.gateway.port}/mcp"
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        names = [tool.name for tool in (await client.list_tools()).tools]
        print(f"✅ Found {len(names)} tools:")
        for name in names:
            print(f"   - {name}")
        await call_one(client, agent, names)
        await call_refused(client, config, agent)
    return names


async def call_one(client: Any, agent: str, names: list[str]) -> None:
    """A real call, where the agent has a tool that needs no preparation."""
    echo = next((name for name in names if name.endswith("echo")), None)
    if echo is None:
        return
    result = await client.call_tool(echo, {"message": f"Hello from {agent}"})
    print(f"📞 {echo} answered: {result.content[0].text}")


async def call_refused(client: Any, config: Config, agent: str) -> None:
    """A call that the agent's token does not allow."""
    from mcp import MCPError

    allow = config.agents[agent]
    other = next((s for s in config.active.values() if not allow.reaches(s.name)), None)
    if other is None:
        return
    name = f"{other.prefix}_echo" if other.prefix else "echo"
    try:
        await client.call_tool(name, {"message": "let me in"})
    except MCPError as error:
        print(f"🚫 {name} was refused: {error}")
        explain(allow, other.name)
    else:
        print(f"❗ {name} was NOT refused")


def explain(allow: Allowlist, server: str) -> None:
    """Why: the gateway itself tells an agent no more than of a tool that does not exist."""
    print(f"   The token's claim lacks {server}: its `allow` is {allow.to_claim()}.")
    print("   To an agent, a tool that it may not use looks like one that does not exist.")


def find_reason(error: BaseException) -> str:
    """The first cause inside a group of errors, as one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def main() -> int:
    """Show every agent of the config, or the one asked for."""
    options = parse()
    if not options.no_bootstrap:
        from mcpcp import bootstrap

        bootstrap.enter([__file__, *sys.argv[1:]])
    import anyio

    from mcpcp.config import find_config, load
    from mcpcp.errors import McpcpError

    try:
        config = load(find_config(options.config))
        for agent in [options.agent] if options.agent else config.agents:
            anyio.run(list_tools, config, agent)
            print()
    except McpcpError as error:
        print(f"client.py: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        print(
            f"client.py: the gateway at port {config.gateway.port} does not answer as it should: "
            f"{find_reason(error)}\nIs it running? Start it with: python3 launch_servers.py",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
