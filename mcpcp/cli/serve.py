"""`mcpcp serve`: the HTTP gateway alone; the supervisor starts its own gateway with it too."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from mcpcp import keyring, logs
from mcpcp.config import Config, find_config, load, process_environment


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="The config file.")
def serve(config_path: Path | None) -> None:
    """Serve the gateway over HTTP, without a supervisor.

    Servers of type stdio are started by the gateway itself; those with a port must run already, or
    are started by `mcpcp up`, which runs this gateway too.

    \b
    Example:  mcpcp serve --config mcpcp.json
              curl -s localhost:9003/ready
    """
    from mcpcp import eventloop, service
    from mcpcp.channel import FleetChannel

    config = _load(config_path)
    logs.configure(config.logs.format, config.logs.level, logging.StreamHandler())
    descriptor = process_environment().get("MCPCP_FLEET_FD")

    async def main() -> None:
        channel = await FleetChannel.open(int(descriptor)) if descriptor is not None else None
        await service.serve(config, channel)

    eventloop.run(main)


def _load(path: Path | None) -> Config:
    config = load(find_config(path))
    keyring.ensure(config.keys_dir)
    return config
