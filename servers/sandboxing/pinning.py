"""The image that a person consented to: which one it is, kept beside the sandboxes' other data.

Above: `candidates` uses that image and no other, `pull` puts it here.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from servers.docker_policy.images import normal

_NAME = "image.json"
_LARGEST = 1 << 16
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class BadPin(Exception):
    """What is pinned can't be known, so no image is taken for it; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Pin:
    """An image by the name that was asked for, and the digest that the registry had for it."""

    image: str
    digest: str

    @property
    def reference(self) -> str:
        """The name by which an engine has that image and no other."""
        return f"{repository(self.image)}@{self.digest}"


def is_digest(text: str) -> bool:
    """Whether it is one as registries write them."""
    return _DIGEST.fullmatch(text) is not None


def repository(image: str) -> str:
    """An image's name without its tag and its digest."""
    name = image.partition("@")[0]
    slash = name.rfind("/")
    colon = name.find(":", slash + 1)
    return name if colon < 0 else name[:colon]


def read(folder: Path) -> Pin | None:
    """The pin in that data folder; raises BadPin where something is pinned that can't be read."""
    path = folder / _NAME
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_LARGEST))
        pin = Pin(str(found["image"]), str(found["digest"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BadPin(f"{path} does not say which image is pinned: {_WAY_OUT}") from e
    if not is_digest(pin.digest):
        raise BadPin(f"{path} names no digest: {_WAY_OUT}")
    return pin


_WAY_OUT = "pin one with `mcpcp sandbox pull`, or none with `mcpcp sandbox unpin`"


def write(folder: Path, pin: Pin) -> None:
    """Atomically; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{_NAME}.{secrets.token_hex(4)}"
    try:
        draft.write_text(json.dumps(asdict(pin), indent=2) + "\n", "utf-8")
        os.replace(draft, folder / _NAME)  # noqa: PTH105 - atomic on every system
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise


def remove(folder: Path) -> bool:
    """Whether there was one; raises OSError."""
    try:
        (folder / _NAME).unlink()
    except FileNotFoundError:
        return False
    return True


def concerns(pin: Pin, images: Sequence[str], usual: Sequence[str]) -> bool:
    """Whether the pin decides: not where the operator names images, and another one."""
    names = map(normal, images)
    return tuple(images) == tuple(usual) or normal(pin.image) in names
