"""`mcpcp sandbox`: the image that containers for code are made of.

The servers have the program that does it; here it is run as one of them would run it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from mcpcp.cli import scripts
from mcpcp.cli.options import config_option, load_config
from mcpcp.config import Config, ServerConfig
from mcpcp.errors import FleetError

_server_option = click.option(
    "--server", metavar="NAME", help="The server that it is for (default: the first that runs code)"
)


@click.group()
def sandbox() -> None:
    """Get the image that code runs in where Docker holds the sandboxes.

    \b
    mcpcp sandbox pull
    mcpcp sandbox unpin

    Needed on macOS and Windows, and on Linux where there is no bubblewrap. `mcpcp doctor` says
    which sandbox is used.
    """


@sandbox.command()
@click.option("--image", metavar="NAME", help="Another image, as name:tag or name@digest.")
@click.option("--yes", is_flag=True, help="Consent in advance, for scripts.")
@_server_option
@config_option
def pull(image: str | None, yes: bool, server: str | None, config: str | None) -> None:
    """Pull an image after showing what it is, and let sandboxes use that one only.

    \b
    mcpcp sandbox pull
    mcpcp sandbox pull --image registry.example/team/python:3 --yes

    The registry is asked, through the engine, which digest the name has now; after your consent
    that digest is pulled and pinned in the servers' data. The usual image is python:3.13-slim,
    which has no numpy.
    """
    words = [*(("--image", image) if image else ()), *(("--yes",) if yes else ())]
    sys.exit(_run(words, server, config))


@sandbox.command()
@_server_option
@config_option
def unpin(server: str | None, config: str | None) -> None:
    """Let sandboxes use what SANDBOX_IMAGE names again; nothing is removed from the engine.

    \b
    mcpcp sandbox unpin
    """
    sys.exit(_run(["--unpin"], server, config))


def _run(words: list[str], name: str | None, path: str | None) -> int:
    """The program's exit code; it has our terminal, and Ctrl+C is for it to answer."""
    config = load_config(path)
    server = _server(config, name)
    command = [sys.executable, "-m", "servers.sandboxing.pull", *words]
    with _deaf_to_interrupts():
        environment = scripts.environment(config, server)
        return subprocess.Popen(command, cwd=server.cwd, env=environment).wait()


def _server(config: Config, name: str | None) -> ServerConfig:
    """Raises FleetError where no server of the config is meant."""
    known = scripts.running(config, scripts.SANDBOXED)
    if not known:
        raise FleetError(f"no server of {config.path} runs code: there is no sandbox to care for")
    if name is not None and name not in known:
        raise FleetError(f"{name!r} is none of the servers that run code: {', '.join(known)}")
    return config.active[name or known[0]]


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A handler, unlike SIG_IGN, is not handed down to what is started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
