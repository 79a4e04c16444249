"""`mcpcp tools` and `mcpcp call`: the gateway as an agent sees it, from the shell."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import click

from mcpcp import keyring
from mcpcp.backends.backend import Backend
from mcpcp.cli.options import config_option, load_config
from mcpcp.cli.pins import approve, diff
from mcpcp.config import Config, ServerConfig, process_environment
from mcpcp.errors import ConfigError, Refused, Unavailable
from mcpcp.policy import Allowlist
from mcpcp.tokens import TokenSource, issue

OPERATOR = "operator"
"""Who calls when no agent is named: whoever can read the signing key may do everything anyway."""

agent_option = click.option(
    "--agent", metavar="NAME", help="See and call as this agent of the config."
)


@click.group(invoke_without_command=True)
@agent_option
@click.option("--json", "as_json", is_flag=True, help="Whole definitions, as JSON.")
@config_option
@click.pass_context
def tools(ctx: click.Context, agent: str | None, as_json: bool, config: str | None) -> None:
    """List the tools that are on offer, or those that one agent sees.

    \b
    Example:  mcpcp tools
              mcpcp tools --agent agent_name1
              mcpcp tools diff
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = config
        return
    loaded = load_config(config)

    async def show(gateway: Backend) -> None:
        offered = gateway.offer.tools if gateway.offer else ()
        if as_json:
            click.echo(json.dumps(list(offered), indent=2, ensure_ascii=False))
            return
        for tool in offered:
            summary = str(tool.get("description") or "").strip().partition("\n")[0]
            click.echo(f"{tool['name']:<40} {summary}".rstrip())

    _with_gateway(loaded, agent, show)


tools.add_command(diff)
tools.add_command(approve)


@click.command(name="call")
@click.argument("tool")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@agent_option
@click.option("--json", "as_json", is_flag=True, help="The whole result, as JSON.")
@config_option
def call(
    tool: str,
    arguments: tuple[str, ...],
    agent: str | None,
    as_json: bool,
    config: str | None,
) -> None:
    """Call a tool and print its answer; the exit code is 1 when the tool reports an error.

    A value is text where the tool's schema wants text, JSON otherwise; `-` instead of arguments
    reads them all as one JSON object from stdin.

    \b
    Example:  mcpcp call mcp1_echo message=hello
              mcpcp call mcp3_run_python_code code='print(6 * 7)'
    """
    loaded = load_config(config)

    async def run(gateway: Backend) -> bool:
        offered = {t["name"]: t for t in (gateway.offer.tools if gateway.offer else ())}
        if tool not in offered:
            raise Refused(f"there is no tool {tool!r} for this agent; `mcpcp tools` lists them")
        values = _arguments(arguments, offered[tool].get("inputSchema") or {})
        result = await gateway.line.request("tools/call", {"name": tool, "arguments": values})
        click.echo(json.dumps(result, indent=2, ensure_ascii=False) if as_json else _text(result))
        return bool(result.get("isError"))

    sys.exit(1 if _with_gateway(loaded, agent, run) else 0)


def _arguments(words: tuple[str, ...], schema: dict[str, Any]) -> dict[str, Any]:
    if words == ("-",):
        values = json.load(sys.stdin)
        if not isinstance(values, dict):
            raise click.UsageError("stdin must hold one JSON object")
        return values
    values = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise click.UsageError(f"{word!r} is not of the form KEY=VALUE")
        values[key] = _value(value, (schema.get("properties") or {}).get(key) or {})
    return values


def _value(text: str, schema: dict[str, Any]) -> Any:
    """`text` as the schema's type; optional texts say so in an anyOf."""
    kinds = {schema.get("type"), *(option.get("type") for option in schema.get("anyOf") or ())}
    if "string" in kinds:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(result: dict[str, Any]) -> str:
    parts = []
    for item in result.get("content") or ():
        if item.get("type") == "text":
            parts.append(item["text"])
        else:
            parts.append(f"[{item.get('type')}: {item.get('mimeType') or item.get('uri') or '?'}]")
    return "\n".join(parts)


def _with_gateway(
    config: Config, agent: str | None, work: Callable[[Backend], Awaitable[Any]]
) -> Any:
    """Run `work` with a connection to the running gateway."""

    async def main() -> Any:
        changed = asyncio.Event()
        gateway = Backend(_entry(config, _token(config, agent)), None, changed.set)
        async with asyncio.TaskGroup() as tasks:
            owner = tasks.create_task(gateway.run())
            try:
                while not gateway.tried:
                    changed.clear()
                    await changed.wait()
                if not gateway.connected:
                    raise Unavailable(
                        f"the gateway is not there: {gateway.error}. Start it with: mcpcp up"
                    )
                return await work(gateway)
            finally:
                owner.cancel()

    try:
        return asyncio.run(main())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _entry(config: Config, token: str) -> ServerConfig:
    """The gateway as one more server, to connect to."""
    host, port = config.gateway.host, config.gateway.port
    return ServerConfig(
        name="gateway",
        transport="http",
        url=f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/mcp",  # noqa: S104
        headers={"authorization": f"Bearer {token}"},
    )


def _token(config: Config, agent: str | None) -> str:
    if agent is not None:
        return TokenSource(config, agent).token()
    given = process_environment().get("MCPCP_TOKEN")
    if given:
        return given.strip()
    if not keyring.can_sign(config.keys_dir):
        raise ConfigError("no signing key can be read here: give a token in MCPCP_TOKEN")
    everything = Allowlist.of({"*": ["*"]})
    return issue(keyring.load_signing(config.keys_dir), OPERATOR, everything, ttl=300)
