"""The client that the conformance tool drives: the SDK's, at the tool's own server.

`python -m tests.conformance.client [--through KEYS] URL`; with `--through` there is a gateway
between the two, whose backend the tool's server then sees. The tool says in the environment which
of its scenarios it plays, at which revision.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

from tests.conformance.suite import CLIENT_TIMEOUT
from tests.gateway.harness import open_gateway
from tests.modern import MODERN

DEADLINE = CLIENT_TIMEOUT - 30
"""Below the tool's own, after which it kills only the shell that it started us with."""


async def fill_in(context: Any, params: Any) -> ElicitResult:
    """Accept, with each field's default, or yes."""
    properties = params.requested_schema.get("properties", {})
    content = {name: field.get("default", True) for name, field in properties.items()}
    return ElicitResult(action="accept", content=content)


async def list_tools(client: Any) -> dict[str, Any]:
    return {tool.name: tool for tool in (await client.list_tools()).tools}


async def look(client: Any) -> None:
    await list_tools(client)


async def add(client: Any) -> None:
    await list_tools(client)
    await client.call_tool("add_numbers", {"a": 5, "b": 3})


async def call_each(client: Any) -> None:
    """Call every tool that is listed, in order."""
    for name, tool in (await list_tools(client)).items():
        required = tool.input_schema.get("required", [])
        with contextlib.suppress(MCPError):
            await client.call_tool(name, dict.fromkeys(required, "value"))


async def ask_for_everything(client: Any) -> None:
    await client.call_tool(next(iter(await list_tools(client))), {})
    listed = await client.list_resources()
    await client.read_resource(str(listed.resources[0].uri))
    prompts = await client.list_prompts()
    await client.get_prompt(prompts.prompts[0].name)


async def call_as_told(client: Any) -> None:
    """The calls that the tool wants, with its arguments."""
    await list_tools(client)
    for call in json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"])["toolCalls"]:
        await client.call_tool(call["name"], call["arguments"])


async def echo_schema(client: Any) -> None:
    tools = await list_tools(client)
    schema = tools["json_schema_2020_12_tool"].input_schema
    await client.call_tool("json_schema_echo", {"schema": schema})


SCENARIOS: dict[str, Callable[[Any], Awaitable[None]]] = {
    "initialize": look,
    "tools_call": add,
    "elicitation-sep1034-client-defaults": call_each,
    "sse-retry": call_each,
    "request-metadata": look,
    "sep-2322-client-request-state": call_each,
    "http-standard-headers": ask_for_everything,
    "http-custom-headers": call_as_told,
    "http-invalid-tool-headers": call_each,
    "json-schema-ref-no-deref": look,
    "json-schema-2020-12-preservation": echo_schema,
}


async def play(url: str, scenario: str, revision: str) -> None:
    mode = "auto" if revision == MODERN else "legacy"
    async with (
        asyncio.timeout(DEADLINE),
        Client(url, mode=mode, cache=None, elicitation_callback=fill_in) as client,
    ):
        await SCENARIOS[scenario](client)


@contextlib.contextmanager
def gateway_to(url: str, keys: Path) -> Iterator[str]:
    """The URL of a gateway that shows the server at `url` to everybody unchanged."""
    with (
        tempfile.TemporaryDirectory(prefix="mcpcp-conformance-") as folder,
        open_gateway(Path(folder), keys) as gateway,
    ):
        gateway.servers["tool"] = {"url": url, "type": "http", "prefix": ""}
        gateway.settings |= {"anonymous": "tester", "drain": "1s"}
        gateway.start()
        yield gateway.url()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--through", type=Path, metavar="KEYS")
    parser.add_argument("url")
    options = parser.parse_args()
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    revision = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    if options.through is None:
        asyncio.run(play(options.url, scenario, revision))
        return
    with gateway_to(options.url, options.through) as url:
        asyncio.run(play(url, scenario, revision))


if __name__ == "__main__":
    main()
