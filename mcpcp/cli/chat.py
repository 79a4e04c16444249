"""`mcpcp chat`: the chat service, and the link that signs a browser in."""

from __future__ import annotations

import logging
import sys

import click

from mcpcp import keyring, logs
from mcpcp.cli.options import Duration, config_option, hint, load_config

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

    loaded = load_config(config)
    logs.configure(loaded.logs.format, loaded.logs.level, logging.StreamHandler())
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
    service = loaded.chat_service
    port = PORT if service is None or service.port is None else service.port
    where = url or f"http://127.0.0.1:{port}"
    hint(f"signs in as {name}; keep it to yourself")
    click.echo(f"{where.rstrip('/')}/#token={token}")
