"""`mcpcp chat`: the chat service, and the link that signs a browser in."""

from __future__ import annotations

import logging
import sys

import click

from mcpcp import keyring
from mcpcp.cli.options import Duration, config_option, hint, load_config
from mcpcp.config import Config

PORT = 9013


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(1, 65535))
@config_option
@click.pass_context
def chat(ctx: click.Context, host: str, port: int, config: str | None) -> None:
    """Serve a chat whose language model uses the tools behind the gateway.

    The model is any endpoint that speaks OpenAI's API: LLM_BASE_URL, LLM_API_KEY, LLM_MODEL_NAME;
    without them, Ollama on this machine. The fleet of mcpcp.json runs this by itself.

    \b
    mcpcp chat link                          # open what it prints in a browser
    LLM_BASE_URL=https://api.example.com/v1 LLM_API_KEY=... LLM_MODEL_NAME=... mcpcp chat
    """
    if ctx.invoked_subcommand is not None:
        return
    from mcpcp import eventloop
    from mcpcp.chat import service

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    loaded = load_config(config)
    eventloop.run(lambda: service.serve(loaded, host, port))


@chat.command()
@click.option("--agent", metavar="NAME", help="Whose tools to use (default: chat.agent).")
@click.option("--ttl", type=Duration(), default="12h", show_default=True, help="How long it lives.")
@click.option("--url", metavar="URL", help="Where the service is, if not on this machine.")
@config_option
def link(agent: str | None, ttl: float, url: str | None, config: str | None) -> None:
    """Print the chat page's address with a token in it: whoever has it is that agent.

    \b
    mcpcp chat link
    mcpcp chat link --agent claude --ttl 1h
    """
    from mcpcp.tokens import TokenSource

    loaded = load_config(config)
    if not keyring.can_sign(loaded.keys_dir):
        hint(f"no signing key can be read in {loaded.keys_dir}: paste a token into the page")
        sys.exit(1)
    name = agent or loaded.chat.agent
    token = TokenSource(loaded, name, ttl=ttl).token()
    where = url or f"http://127.0.0.1:{_port(loaded)}/"
    hint(f"signs in as {name}; keep it to yourself")
    click.echo(f"{where.rstrip('/')}/#token={token}")


def _port(config: Config) -> int:
    """The port of the fleet's chat service; the command's own default where the fleet has none."""
    ports = (s.port for s in config.active.values() if s.args[:3] == ("-m", "mcpcp", "chat"))
    return next((port for port in ports if port is not None), PORT)
