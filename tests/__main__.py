"""`python3 -m tests`: makes the environment where it is missing, then runs every test in it.

Arguments go to pytest: `python3 -m tests -k token`, `python3 -m tests tests/e2e -x`.
"""

import os
import subprocess
import sys

if sys.version_info < (3, 11):  # noqa: UP036  whatever `python3` is runs this
    sys.exit("tests: mcpcp needs Python 3.11 or newer, and this is " + sys.version.split()[0])

from mcpcp import bootstrap
from mcpcp.errors import FleetError


def main() -> int:
    """Run pytest in the environment, with as many workers as there are processors."""
    try:
        bootstrap.enter(["-m", "tests", *sys.argv[1:]], extras="dev,sandbox")
    except FleetError as error:
        sys.stderr.write(f"tests: {error}\n")
        return 1
    given = sys.argv[1:]
    has_workers = any(arg.startswith(("-n", "--numprocesses")) for arg in given)
    # By pytest's own program, so that its summary is the last line and its exit code is ours.
    command = [sys.executable, "-m", "pytest", *([] if has_workers else ["-n", workers()]), *given]
    try:
        return subprocess.call(command, cwd=bootstrap.PROJECT)
    except KeyboardInterrupt:
        return 130


def workers() -> str:
    """Tests wait more than they compute: two for each processor, eight at most."""
    return str(min(8, 2 * (os.cpu_count() or 1)))


if __name__ == "__main__":
    sys.exit(main())
