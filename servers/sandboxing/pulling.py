"""An image from a registry, by way of the engine: what a name means there, then exactly that.

Above: `pull` shows it and asks. The engine speaks to the registry; we speak to nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from docker import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound, InvalidRepository

from servers.docker_policy.engine import HOW_TO_GET_ONE
from servers.sandboxing import pinning
from servers.sandboxing.pinning import Pin
from servers.sandboxing.text import sanitize

KEPT = ("mcpcp-sandbox", "pulled")
"""The tag that what was pulled gets: `docker image prune` removes what has none."""

_REGISTRY_SECONDS = 120
_MOST_SAID = 500

_MEANINGS = (
    (
        ("no space left on device", "disk quota exceeded"),
        "the engine's disk is full: make room where it keeps its data (`docker system df` shows"
        " what takes it), then run this again",
    ),
    (
        ("toomanyrequests", "rate limit"),
        "the registry answers no more for now: wait, or log in with `docker login {registry}`",
    ),
    (
        ("unauthorized", "denied", "no basic auth", "authentication required", "forbidden"),
        "the registry refuses {image}: look at its name (many registries say so of what does not"
        " exist), or log in with `docker login {registry}`",
    ),
    (
        ("manifest unknown", "not found", "name unknown", "repository name not known"),
        "the registry has no {image}: look at its name and tag; if it had it a moment ago, run this"
        " again",
    ),
    (
        ("no matching manifest",),
        "the registry has {image} for other processors than the engine's: name another image with"
        " --image",
    ),
    (
        (
            *("no such host", "dial tcp", "connection refused", "network is unreachable"),
            *("timeout", "timed out", "deadline exceeded", "eof", "connection reset", "tls:"),
        ),
        "the engine does not reach the registry {registry}: look at the machine's network and at"
        " the engine's proxy settings, then run this again",
    ),
)
"""What is to be done, by words in what the engine says; the first that fits."""


class PullFailed(Exception):
    """Nothing was pinned; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a registry has under a name: `platforms` as `os/architecture`, `mine` the engine's."""

    image: str
    digest: str
    platforms: tuple[str, ...]
    mine: str

    @property
    def pin(self) -> Pin:
        """What taking it would pin."""
        return Pin(self.image, self.digest)

    @property
    def fits(self) -> bool:
        """Whether the engine can run it; a registry may not say for what an image is."""
        return not self.platforms or self.mine in self.platforms


def ask(client: DockerClient, image: str) -> Offer:
    """What the registry has under that name now; raises PullFailed."""
    client.api.timeout = _REGISTRY_SECONDS
    try:
        found = client.images.get_registry_data(image).attrs
        version = client.version()
        mine = _platform({"os": version["Os"], "architecture": version["Arch"]})
        digest = str(found["Descriptor"]["digest"])
        platforms = tuple(sorted({*map(_platform, found.get("Platforms") or ())}))
    except InvalidRepository as e:
        raise PullFailed(f"{image} is no name of an image: {e}") from e
    except (DockerException, requests.RequestException, OSError) as e:
        raise PullFailed(in_words(image, _said(e))) from e
    except (KeyError, TypeError, AttributeError) as e:
        raise PullFailed(f"the engine's answer about {image} can't be read: {e!r}") from e
    if not pinning.is_digest(digest):
        raise PullFailed(f"the registry names no digest of {image}: {sanitize(digest)[:100]}")
    return Offer(image, digest, platforms, mine)


def _platform(found: Mapping[str, Any]) -> str:
    return sanitize(f"{found.get('os', '')}/{found.get('architecture', '')}")[:100]


@dataclass(slots=True)
class Progress:
    """How far a pull is, in bytes that come by the network, as far as its layers are known."""

    layers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def heard(self, event: Mapping[str, Any]) -> None:
        """Take in what the engine says."""
        detail, layer = event.get("progressDetail") or {}, str(event.get("id", ""))
        total = detail.get("total")
        if event.get("status") == "Downloading" and total:
            self.layers[layer] = (int(detail.get("current") or 0), int(total))
        elif event.get("status") in _HERE and layer in self.layers:
            self.layers[layer] = (self.layers[layer][1],) * 2

    @property
    def done(self) -> int:
        """Bytes that have come."""
        return sum(current for current, _ in self.layers.values())

    @property
    def total(self) -> int:
        """Bytes of the layers that have begun."""
        return sum(total for _, total in self.layers.values())


_HERE = ("Verifying Checksum", "Download complete", "Pull complete")


def pull(client: DockerClient, offer: Offer) -> Iterator[Progress]:
    """Have the engine fetch what was offered, whatever has the name by now; raises PullFailed.

    Letting go of the iterator ends the pull.
    """
    progress = Progress()
    try:
        repository = pinning.repository(offer.image)
        for event in client.api.pull(repository, tag=offer.digest, stream=True, decode=True):
            if "error" in event:
                raise PullFailed(in_words(offer.image, str(event["error"])))
            progress.heard(event)
            yield progress
    except (DockerException, requests.RequestException, OSError) as e:
        raise PullFailed(in_words(offer.image, _said(e))) from e


def keep(client: DockerClient, pin: Pin) -> int:
    """Give the image that was pulled a tag, so that it stays; its size on disk. Raises PullFailed.

    Looks whether the engine has it under the digest that was consented to.
    """
    try:
        image = client.images.get(pin.reference)
        image.tag(*KEPT)
    except ImageNotFound as e:
        raise PullFailed(f"the engine pulled {pin.reference} and does not have it: {e}") from e
    except (DockerException, requests.RequestException, OSError) as e:
        raise PullFailed(in_words(pin.image, _said(e))) from e
    return int(image.attrs.get("Size") or 0)


def _said(error: Exception) -> str:
    """The engine's own words, without the address that it was asked at."""
    explained = error.explanation if isinstance(error, APIError) else None
    return str(explained or error)


def in_words(image: str, said: str) -> str:
    """What people can do, and what the engine said, in which a registry may have had a word."""
    lowered = said.lower()
    shown = sanitize(said).strip()[:_MOST_SAID] or "nothing"
    if "connection aborted" in lowered or "no such file or directory" in lowered:
        return f"the engine went away: {HOW_TO_GET_ONE}"
    for words, meaning in _MEANINGS:
        if any(word in lowered for word in words):
            return f"{meaning.format(image=image, registry=_registry(image))} (it said: {shown})"
    return f"the engine did not get {image}: {shown}"


def _registry(image: str) -> str:
    """The host that a name means: one with a dot, a port, or localhost before the first slash."""
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named else "docker.io"
