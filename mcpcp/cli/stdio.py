"""`mcpcp stdio`: its help; the command itself is `mcpcp.relay`, which starts without all this."""

from __future__ import annotations

import sys

import click

from mcpcp import relay


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--agent", metavar="NAME", help="Which agent of the config this client is.")
@click.option("--config", metavar="FILE", help="The config file.")
@click.option("--token-file", metavar="FILE", help="Where a token lies; MCPCP_TOKEN works too.")
@click.option("--no-launch", is_flag=True, help="Never start a fleet: use it, or run alone.")
def stdio(**_options: object) -> None:
    """Be an MCP server on stdin and stdout that has the tools of all servers.

    This is what an MCP client runs. The first one starts the servers in the background, if they do
    not run yet; they stop when nobody has used them for `gateway.idle_exit` minutes. Where the
    private key can be read, the agent's tokens are made as needed; elsewhere give it a token.

    \b
    Example:  mcpcp stdio --agent claude
              MCPCP_TOKEN=... mcpcp stdio --no-launch
    """
    sys.exit(relay.main(sys.argv[2:]))
