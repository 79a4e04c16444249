"""`mcpcp monitoring`: what Prometheus needs to know of the fleet."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mcpcp import prometheus
from mcpcp.cli.options import config_option, hint, load_config
from mcpcp.config import PROJECT
from mcpcp.files import write_atomically
from mcpcp.scraping import load_token

RULES = PROJECT / "deploy" / "monitoring" / "alerts.yml"


@click.group()
def monitoring() -> None:
    """Have Prometheus watch the fleet.

    \b
    mcpcp monitoring config
    mcpcp monitoring config -o deploy/monitoring/prometheus.yml
    """


@monitoring.command("config")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it there, with paths that start at that folder.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where Prometheus reaches what listens on this machine.",
)
@config_option
def config_(output: Path | None, host: str, config: str | None) -> None:
    """Print a prometheus.yml that scrapes what the config says.

    Prometheus shows the scrape token, which opens /metrics and nothing else; it has to be able to
    read the token's file, which is made here where it is missing.

    \b
    mcpcp monitoring config > prometheus.yml && prometheus --config.file=prometheus.yml
    mcpcp monitoring config -o deploy/monitoring/prometheus.yml
    """
    loaded = load_config(config)
    token_file = loaded.monitoring.token_file
    load_token(token_file)
    base = output.resolve().parent if output else None
    paths = [_seen_from(base, path) for path in (token_file, RULES)]
    text = prometheus.render(prometheus.jobs(loaded, host), *paths)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomically(output, text.encode(), 0o644)
        click.echo(f"wrote {output}")
    if loaded.monitoring.port is None:
        hint("the supervisor is not scraped: give it a port, as monitoring.port in the config")


def _seen_from(folder: Path | None, path: Path) -> Path:
    return path if folder is None else Path(os.path.relpath(path.resolve(), folder))
