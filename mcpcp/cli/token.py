"""`mcpcp token`: issue, look into and revoke agents' tokens."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mcpcp import keyring, limits
from mcpcp.cli.options import Duration, config_option, hint, json_option, load_config
from mcpcp.config import Config, process_environment
from mcpcp.config.findings import suggest
from mcpcp.errors import ConfigError, TokenError
from mcpcp.policy import NONE, Allowlist, Limits
from mcpcp.state import open_revocations
from mcpcp.tokens import LEEWAY, LONGEST_LIFE, TokenVerifier, issue, read_claims


@click.group()
def token() -> None:
    """Issue, look into and revoke agents' tokens.

    \b
    mcpcp token issue agent_name1 --ttl 24h
    mcpcp token inspect < token.txt
    mcpcp token revoke 71e3ac6344184fcdbae071865dd80bf3
    """


@token.command("issue")
@click.argument("agent")
@click.option("--ttl", type=Duration(), default="24h", show_default=True, help="How long it lives.")
@click.option(
    "--allow",
    "grants",
    metavar="SERVER:TOOL",
    multiple=True,
    help="Grant only this, instead of what the config says; * stands for anything; repeatable.",
)
@click.option("--per-minute", type=int, metavar="N", help="Calls that may begin in any minute.")
@click.option("--in-flight", type=int, metavar="N", help="Calls that may run at once.")
@click.option(
    "--arguments",
    "rules",
    metavar="SERVER:TOOL=SCHEMA",
    multiple=True,
    help="A JSON Schema that the arguments of these tools must meet; repeatable.",
)
@config_option
def issue_(
    agent: str, ttl: float, grants: tuple[str, ...], config: str | None, **held_to: Any
) -> None:
    """Print a token for AGENT; its last line on stdout is the token alone.

    Its limits are the config's; a limit that is given here takes the place of the config's.

    \b
    mcpcp token issue agent_name1
    mcpcp token issue agent_name1 --ttl 30d > token.txt
    mcpcp token issue ci --allow mcp1:echo --allow 'time:*'
    mcpcp token issue ci --allow 'mcp1:*' --per-minute 30 --in-flight 2
    mcpcp token issue ci --allow 'files:*' \\
        --arguments 'files:*={"properties": {"path": {"pattern": "^/srv/"}}}'
    """
    loaded = load_config(config)
    allow = _parse_grants(grants) if grants else _allow_of(agent, loaded)
    bounds = _limits(loaded.agent_limits.get(agent, NONE), **held_to)
    made = issue(keyring.load_signing(loaded.keys_dir), agent, allow, ttl=ttl, held_to=bounds)
    claims = read_claims(made)
    hint(f"{agent} may use {_in_words(allow)} until {_moment(claims['exp'])}")
    if bounds != NONE:
        hint(f"held to {json.dumps(limits.to_claim(bounds))}")
    hint(f"take it back with: mcpcp token revoke {claims['jti']}")
    click.echo(made)


def _allow_of(agent: str, config: Config) -> Allowlist:
    if agent not in config.agents:
        raise ConfigError(
            f"{config.path}: agents: no agent {json.dumps(agent)}; {suggest(agent, config.agents)}"
            " (or say what it may use with --allow)"
        )
    return config.agents[agent]


def _parse_grants(grants: Iterable[str]) -> Allowlist:
    allow: dict[str, list[str]] = {}
    for grant in grants:
        server, colon, tool = grant.partition(":")
        if not (server and colon and tool):
            raise click.BadParameter(f"{grant!r} is not SERVER:TOOL", param_hint="--allow")
        allow.setdefault(server, []).append(tool)
    return Allowlist.of(allow)


def _limits(
    base: Limits, per_minute: int | None, in_flight: int | None, rules: tuple[str, ...]
) -> Limits:
    claim = limits.to_claim(base)
    if per_minute is not None:
        claim["calls_per_minute"] = per_minute
    if in_flight is not None:
        claim["in_flight"] = in_flight
    if rules:
        claim["arguments"] = _parse_rules(rules)
    try:
        return limits.parse(claim)
    except ValueError as e:
        raise click.UsageError(f"limits: {e}") from None


def _parse_rules(rules: Iterable[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for rule in rules:
        pattern, equals, schema = rule.partition("=")
        if not equals or pattern in parsed:
            raise click.BadParameter(
                f"{rule!r} is not SERVER:TOOL=SCHEMA, each pattern once", param_hint="--arguments"
            )
        try:
            parsed[pattern] = json.loads(schema)
        except (ValueError, RecursionError) as e:
            raise click.BadParameter(
                f"the schema of {pattern} is not JSON: {e}", param_hint="--arguments"
            ) from None
    return parsed


def _in_words(allow: Allowlist) -> str:
    return ", ".join(f"{server}: {' '.join(tools)}" for server, tools in allow.rules) or "nothing"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@token.command()
@click.argument("token", required=False)
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), help="Read it here.")
@json_option
@config_option
def inspect(token: str | None, token_file: Path | None, as_json: bool, config: str | None) -> None:
    """Show what a token says, and whether it is accepted (exit code 1: it is not).

    \b
    mcpcp token issue agent_name1 | mcpcp token inspect
    mcpcp token inspect --token-file token.txt --json

    Without TOKEN and --token-file it is read from stdin, or from MCPCP_TOKEN on a terminal: other
    users of the machine can see arguments.
    """
    loaded = load_config(config)
    text = _read_token(token, token_file)
    claims, refusal = _look_into(text, loaded)
    if as_json:
        click.echo(json.dumps({"accepted": refusal is None, "reason": refusal, "claims": claims}))
    else:
        _print_claims(claims)
        click.echo("accepted" if refusal is None else f"not accepted: {refusal}")
    sys.exit(0 if refusal is None else 1)


def _read_token(given: str | None, file: Path | None) -> str:
    if given is not None:
        return given.strip()
    if file is not None:
        try:
            return file.read_text().strip()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{file}: can't be read as a token") from e
    if not sys.stdin.isatty():
        return sys.stdin.read().strip()
    return process_environment().get("MCPCP_TOKEN", "").strip()


def _look_into(text: str, config: Config) -> tuple[dict[str, Any] | None, str | None]:
    """What a token says, where it can be read, and why it is refused, if it is."""
    try:
        claims = read_claims(text)
    except TokenError as e:
        return None, e.reason
    try:
        TokenVerifier(config.keys_dir, open_revocations(config)).verify(text)
    except TokenError as e:
        return claims, e.reason
    return claims, None


def _print_claims(claims: dict[str, Any] | None) -> None:
    for name, value in (claims or {}).items():
        is_time = name in ("iat", "nbf", "exp") and type(value) is int and 0 <= value < 2**33
        text = _moment(value) if is_time else json.dumps(value, ensure_ascii=True)
        click.echo(f"{name:6} {text}")


@token.command()
@click.argument("token")
@config_option
def revoke(token: str, config: str | None) -> None:
    """Refuse TOKEN from now on; its id (jti) is enough.

    \b
    mcpcp token revoke "$(cat token.txt)"
    mcpcp token revoke 71e3ac6344184fcdbae071865dd80bf3

    Running gateways follow within a second, sessions that are open included.
    """
    loaded = load_config(config)
    token_id, ends = _what_to_revoke(token.strip())
    open_revocations(loaded).revoke(token_id, ends + LEEWAY)
    click.echo(f"revoked {token_id}")


def _what_to_revoke(text: str) -> tuple[str, float]:
    """A token's id, and when it ends at the latest."""
    if "." not in text:
        return text, time.time() + LONGEST_LIFE
    claims = read_claims(text)
    token_id, ends = claims.get("jti"), claims.get("exp")
    if not (isinstance(token_id, str) and token_id and type(ends) is int):
        raise TokenError("claims", "the token has no id or no end, so it is refused anyway")
    return token_id, float(ends)
