"""The command line: the only place that prints and exits.

Each command lives in a module of its own, which is imported when the command runs.
"""

from __future__ import annotations

import importlib
import sys

import click

from mcpcp.errors import McpcpError

COMMANDS = {
    "up": "fleet:up",
    "down": "fleet:down",
    "status": "fleet:status",
    "restart": "fleet:restart",
    "logs": "fleet:logs",
    "tools": "call:tools",
    "call": "call:call",
    "stdio": "stdio:stdio",
    "serve": "serve:serve",
    "chat": "chat:chat",
    "keys": "keys:keys",
    "token": "token:token",
    "audit": "audit:audit",
    "monitoring": "monitoring:monitoring",
    "packages": "packages:packages",
    "sandbox": "sandbox:sandbox",
    "data": "data:data",
    "import": "importing:import_",
    "install": "install:install",
    "doctor": "doctor:doctor",
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mcpcp")
def cli() -> None:
    """One entry for every MCP server you run.

    \b
    Start everything and watch it:      mcpcp up
    See what an agent may use:          mcpcp tools --agent agent_name1
    Call a tool:                        mcpcp call mcp1_echo message=hello
    Connect Claude Desktop:             mcpcp install claude-desktop
    """


def run() -> None:
    """Run the command line; our own errors become one line and an exit code."""
    try:
        cli(prog_name="mcpcp")
    except McpcpError as error:
        click.secho(f"mcpcp: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
