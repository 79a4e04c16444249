"""A container's own end of its lifeline: a few lines of shell around the command that it is for.

Standard input of the container is held open by its maker. When it ends, everything inside is
killed; when the command ends, so does the container, with its exit code. TERM reaches the command.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

SHELL = "/bin/sh"

# `kill -KILL -1` is every process that we may signal, which in the container's own pid namespace is
# all of them but the init above us, and that one leaves when we are gone.
_SCRIPT = """
exec 3<&0 </dev/null
(while read -r _ <&3; do :; done; kill -KILL -1) >/dev/null 2>&1 &
"$@" 3<&- &
main=$!
exec 3<&-
trap 'kill -TERM $main 2>/dev/null' TERM INT QUIT HUP
wait $main
code=$?
while kill -0 $main 2>/dev/null; do wait $main; code=$?; done
exit $code
"""
# As ps shows it: in one line, and perhaps not to its end.
_SHOWN = re.compile(re.escape(_SCRIPT.split("\n")[1]) + r".*?(?: lifeline\b|\Z)")


def around(command: Sequence[str]) -> list[str]:
    """The container's entrypoint for a command."""
    return [SHELL, "-c", _SCRIPT, "lifeline", *command]


def inside(entrypoint: Sequence[str]) -> list[str]:
    """The reverse of `around`, to show."""
    words = list(entrypoint)
    return words[4:] if words[:3] == [SHELL, "-c", _SCRIPT] else words


def shortened(command: str) -> str:
    """A process's command line as ps shows it, less our lines of shell."""
    return _SHOWN.sub("(lifeline)", " ".join(command.split()))


def is_missing(stderr: str) -> bool:
    """Whether the container's init said that the image has no shell."""
    return "tini" in stderr and f"exec {SHELL} failed" in stderr


def command_of(
    image: dict[str, Any], entrypoint: str | None, arguments: Sequence[str]
) -> list[str]:
    """What a container of the image runs, as the docker CLI would have it: empty if nothing does.

    `image` is its Config. An entrypoint that is asked for leaves the image's own command aside.
    """
    if entrypoint is not None:
        return [*([entrypoint] if entrypoint else []), *arguments]
    return [*(image.get("Entrypoint") or []), *(arguments or image.get("Cmd") or [])]
