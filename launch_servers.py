#!/usr/bin/env python3
"""Start every tool server of mcpcp.json and the gateway, show them, and stop them all on Ctrl+C.

Needs nothing but Python 3.11: the first start makes `.venv` and installs the project into it.
"""

# Read by whatever `python3` is: nothing here may be newer than Python 3.7, so that it can say so.
from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mcpcp.supervisor.options import Ui

NEEDED = (3, 11)
EXAMPLES = """\
examples:
  python3 launch_servers.py                     start everything, watch the table, Ctrl+C stops it
  python3 launch_servers.py --only mcp1,mcp3    two servers (what they depend on comes along)
  python3 launch_servers.py --plain             log lines instead of the table
  python3 launch_servers.py --json | jq .       for programs: one JSON object a line
  python3 launch_servers.py --config my.json    another config

While it runs:  python client.py     (what each agent of the config sees)
                .venv/bin/mcpcp --help    (status, restart, logs, tokens, Claude Desktop)
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """The flags; `--help` needs no environment."""
    parser = argparse.ArgumentParser(
        prog="launch_servers.py",
        description="Start the tool servers and the gateway, keep them alive, stop them on Ctrl+C.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--plain",
        action="store_true",
        help="log lines instead of the table (as where there is no terminal)",
    )
    shown.add_argument("--json", action="store_true", help="events as JSON, one object a line")
    parser.add_argument(
        "--only", metavar="NAMES", help="only these servers, by name, separated by commas"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the config (default: $MCPCP_CONFIG, ./mcpcp.json, the project's)",
    )
    parser.add_argument(
        "--no-bootstrap",
        action="store_true",
        help="never touch a virtual environment: run with this Python as it is",
    )
    return parser.parse_args(argv)


def main() -> int:
    """Set the environment up, then run the fleet in it."""
    if sys.version_info < NEEDED:
        return complain(too_old())
    options = parse(sys.argv[1:])
    try:
        if not options.no_bootstrap:
            from mcpcp import bootstrap
            from mcpcp.errors import FleetError

            try:
                bootstrap.enter([__file__, *sys.argv[1:]])
            except FleetError as error:
                return complain(str(error))
        return launch(options)
    except KeyboardInterrupt:
        return complain("interrupted; the next start goes on from here", 130)


def launch(options: argparse.Namespace) -> int:
    """Run the fleet in this interpreter, which has the project's requirements."""
    try:
        from mcpcp.cli.launching import launch_foreground
    except ModuleNotFoundError as missing:
        return complain(
            f"{missing.name} is not installed for {sys.executable}. Leave --no-bootstrap out, "
            f"or install the project there: {sys.executable} -m pip install -e ."
        )
    ui: Ui | None = "json" if options.json else "plain" if options.plain else None
    return launch_foreground(options.config, options.only, ui)


def too_old() -> str:
    """What to do about a Python that is older than NEEDED."""
    import shutil

    newer = [f"python3.{minor}" for minor in range(20, NEEDED[1] - 1, -1)]
    found = [name for name in newer if shutil.which(name)]
    way = (
        f"{found[0]} is here: {found[0]} " + " ".join(sys.argv)
        if found
        else "get one from https://www.python.org/downloads/ or your system's packages"
    )
    have = ".".join(map(str, sys.version_info[:3]))
    return f"mcpcp needs Python 3.11 or newer, and this is {have}. {way}"


def complain(text: str, code: int = 1) -> int:
    """One error on stderr; the exit code."""
    sys.stderr.write(f"launch_servers: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
