"""The shop's database where there is no MongoDB: nx-27017, its protocol on SQLite, on loopback.

    python servers/shop_database.py --data-dir data/mongo --port 9027

It is no MCP server. It asks nobody who he is, so it listens on loopback only, and its files are its
user's alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: use the package that this very file belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import asyncio
import logging
import os
from collections.abc import Sequence

from nx_27017.handler import NeoSQLiteHandler
from nx_27017.server import run_server

from servers.plumbing import logs
from servers.plumbing.loop import run
from servers.plumbing.stop import stop_event

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="The shop's database, on loopback.")
    parser.add_argument("--data-dir", type=Path, default=Path("data/mongo"))
    parser.add_argument("--port", type=int, default=9027)
    flags = parser.parse_args(argv)
    logs.configure("INFO", "text")
    logging.getLogger("nx_27017").setLevel(logging.WARNING)  # it has a line for every command
    if os.name == "posix":
        os.umask(0o077)
    folder = flags.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # Not by its own main: that keeps a pid file and a log in /tmp, the same for all that run.
    run(_serve(folder, flags.port))


async def _serve(folder: Path, port: int) -> None:
    handler = NeoSQLiteHandler(data_dir=str(folder))
    try:
        with stop_event() as stop:
            serving = asyncio.ensure_future(run_server(HOST, port, handler))
            stopping = asyncio.ensure_future(stop.wait())
            logger.info("the shop's database", extra={"folder": folder, "port": port})
            done, _ = await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            serving.cancel()
            if serving in done:
                serving.result()
    finally:
        handler.close_all()


if __name__ == "__main__":
    main()
