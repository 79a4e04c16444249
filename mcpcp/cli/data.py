"""`mcpcp data`: the data of the embedded database, saved and put back while it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from mcpcp import backups
from mcpcp.cli.options import config_option, load_config
from mcpcp.config import Config, runtime_dir
from mcpcp.control import ControlClient
from mcpcp.errors import Unavailable

RESTART_PATIENCE = 300.0

_folder_option = click.option(
    "--database",
    type=click.Path(file_okay=False, path_type=Path),
    help="The database's folder, where it is not `mongo` in the config's data_dir.",
)


@click.group()
def data() -> None:
    """Save the embedded database, and put it back; the fleet may run on.

    \b
    mcpcp data backup
    mcpcp data restore data/backups/20261120-101500
    """


@data.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@_folder_option
@config_option
def backup(folder: Path | None, database: Path | None, config: str | None) -> None:
    """Copy the database, as it is at one moment, to a new folder.

    \b
    mcpcp data backup
    mcpcp data backup /backup/shop-monday
    """
    loaded = load_config(config)
    target = folder or _new_folder(loaded, "")
    for path in backups.back_up(database or _default(loaded), target):
        click.echo(f"{path} ({path.stat().st_size:,} bytes)")


@data.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_folder_option
@config_option
def restore(folder: Path, database: Path | None, config: str | None) -> None:
    """Put a backup in the database's place; what is there is saved first.

    A database that runs is restarted, so that it remembers nothing of before.

    \b
    mcpcp data restore data/backups/20261120-101500
    """
    loaded = load_config(config)
    target = database or _default(loaded)
    backups.check(folder)
    if backups.databases(target):
        saved = _new_folder(loaded, "before-restore-")
        backups.back_up(target, saved)
        click.echo(f"what was there is in {saved}")
    for path in backups.restore(folder, target):
        click.echo(f"restored {path}")
    for name in _restart_services(loaded):
        click.echo(f"restarted {name}")


def _default(config: Config) -> Path:
    return config.data_dir / "mongo"


def _new_folder(config: Config, prefix: str) -> Path:
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return config.data_dir / "backups" / f"{prefix}{moment}"


def _restart_services(config: Config) -> list[str]:
    """Restart the services of the fleet, if it runs; their names."""
    services = [name for name, server in config.active.items() if not server.speaks_mcp]
    try:
        with ControlClient.connect(runtime_dir(config.path)) as client:
            for name in services:
                client.ask("restart", timeout=RESTART_PATIENCE, name=name)
    except Unavailable:
        return []
    return services
