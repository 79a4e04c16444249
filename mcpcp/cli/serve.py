"""`mcpcp serve`: the HTTP gateway alone; the supervisor starts its own gateway with it too."""

from __future__ import annotations

import logging

import click

from mcpcp import keyring, logs
from mcpcp.cli.options import config_option, load_config
from mcpcp.config import process_environment


@click.command()
@config_option
def serve(config: str | None) -> None:
    """Serve the gateway over HTTP, without a supervisor.

    Servers of type stdio are started by the gateway itself; those with a port must run already, or
    are started by `mcpcp up`, which runs this gateway too.

    \b
    Example:  mcpcp serve --config mcpcp.json
              curl -s localhost:9003/ready
    """
    from mcpcp import eventloop, service
    from mcpcp.channel import FleetChannel

    loaded = load_config(config)
    keyring.ensure(loaded.keys_dir)
    logs.configure(loaded.logs.format, loaded.logs.level, logging.StreamHandler())
    descriptor = process_environment().get("MCPCP_FLEET_FD")

    async def main() -> None:
        channel = await FleetChannel.open(int(descriptor)) if descriptor is not None else None
        await service.serve(loaded, channel)

    eventloop.run(main)
