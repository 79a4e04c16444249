"""The values of flags and the words of commands: what they may look like, and what they mean. Pure.

Each of these raises Refused, with the command and what it should be.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from servers.docker_policy.words import Refused

MOST_CONTAINERS = 20

CONTAINER = re.compile(r"\A[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z", re.ASCII)
IMAGE = re.compile(
    r"\A[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?\Z",
    re.ASCII,
)
_VARIABLE = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_SIZE = re.compile(r"\A(\d{1,12})(?:([bkmg])(?:i?b)?)?\Z", re.ASCII | re.IGNORECASE)
_DECIMAL = re.compile(r"\A(?:\d{1,4}(?:\.\d{1,9})?|\.\d{1,9})\Z", re.ASCII)
_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
# runtimes had files of the host open there when they changed folders (CVE-2024-21626)
_OPEN_FILES = re.compile(r"/{1,2}(?:proc|dev)(?:/|\Z)")
PORT = re.compile(r"\A\d{1,5}(?:/(?:tcp|udp|sctp))?\Z", re.ASCII)


def image(command: str, text: str) -> str:
    """The name of an image, with its tag and digest, as it was given."""
    if not IMAGE.match(text):
        raise Refused(f"docker {command}: {text!r} is not the name of an image")
    return text


def name(text: str | None) -> str | None:
    """The name that a container is to have."""
    if text is not None and not CONTAINER.match(text):
        raise Refused(f"docker run: --name {text!r}: use letters, digits, _ . - only")
    return text


def variable(text: str) -> tuple[str, str]:
    """NAME=VALUE, apart."""
    name, equals, value = text.partition("=")
    if not equals:
        raise Refused(f"docker run: -e {text}: give NAME=VALUE; the server's own is not passed on")
    if not _VARIABLE.match(name):
        raise Refused(f"docker run: -e {name}: not the name of a variable")
    return name, value


def workdir(text: str | None) -> str | None:
    """A path inside the container."""
    if text is not None and not text.startswith("/"):
        raise Refused(f"docker run: --workdir {text}: give an absolute path")
    if text is not None and _OPEN_FILES.match(posixpath.normpath(text)):
        raise Refused(
            f"docker run: --workdir {text} is refused: what is open while a container is made is"
            " not for containers"
        )
    return text


def size(text: str) -> int:
    """Bytes."""
    match = _SIZE.match(text)
    if not match:
        raise Refused(f"docker run: --memory {text}: give a size such as 256m")
    return int(match[1]) * _UNITS[(match[2] or "b").lower()]


def decimal(text: str) -> float:
    """Processors, more than none."""
    if not _DECIMAL.match(text) or float(text) <= 0:
        raise Refused(f"docker run: --cpus {text}: give a number such as 0.5")
    return float(text)


def number(command: str, flag: str, text: str, highest: int) -> int:
    """A whole number from 0 on."""
    if not re.match(r"\A\d{1,9}\Z", text, re.ASCII) or int(text) > highest:
        raise Refused(f"docker {command}: {flag} {text}: give a number from 0 to {highest}")
    return int(text)


def containers(
    command: str, words: Sequence[str], at_most: int = MOST_CONTAINERS
) -> tuple[str, ...]:
    """Names or ids, one at least."""
    if not words:
        raise Refused(f"docker {command}: which container? Give its name or id")
    if len(words) > at_most:
        raise Refused(f"docker {command}: takes at most {at_most} of them at once")
    for word in words:
        if not CONTAINER.match(word):
            raise Refused(f"docker {command}: {word!r} is not the name or id of a container")
    return tuple(words)
