"""Options and argument types that several commands share."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from mcpcp.config import Config, find_config, load
from mcpcp.config.kinds import duration

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """The `--config` that every command takes."""
    return click.option(
        "--config",
        metavar="FILE",
        help="The config (default: $MCPCP_CONFIG, ./mcpcp.json, the project's).",
    )(command)


def json_option(command: Command) -> Command:
    """The `--json` of commands that scripts read."""
    return click.option("--json", "as_json", is_flag=True, help="As JSON, for scripts.")(command)


def load_config(config: str | None) -> Config:
    """The config that `--config` means; raises ConfigError."""
    return load(find_config(config))


class Duration(click.ParamType[float]):
    """Seconds, or a number with ms, s, m, h or d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds as a float."""
        seconds = duration(high=1e9).parse(str(value))
        if seconds is None:
            self.fail(f"{value!r} is no duration: write 90, 30s, 5m, 24h or 30d", param, ctx)
        return seconds


class Moment(click.ParamType[float]):
    """Seconds since 1970: a duration ago, or a date with or without a time of day."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds as a float; a time of day without a zone is local."""
        if isinstance(value, float):
            return value
        ago = duration(high=1e9).parse(str(value))
        if ago is not None:
            return time.time() - ago
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except ValueError:
            self.fail(
                f"{value!r} is no time: write 10m, 24h, 2026-11-20 or 2026-11-20T08:00Z", param, ctx
            )


def visible(text: str) -> str:
    """`text` as a terminal may have it: what could drive it or hide is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def hint(text: str) -> None:
    """What helps a person and must not reach a script's pipe."""
    click.secho(text, dim=True, err=True)
