"""Which images may be run: names against the operator's patterns. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT = "alpine,busybox,debian,ubuntu,python,node,hello-world"
"""Official images, which hold nobody's secrets; none is pulled: it must be there as well."""

_HUB = re.compile(r"\A(?:(?:index\.)?docker\.io/)?(?:library/)?")


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Patterns of image names, in which `*` stands for anything.

    Without a tag any tag will do; with `@sha256:...` only what has that digest.
    """

    patterns: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Allowlist:
        """From patterns with commas between them."""
        return cls(tuple(p.strip() for p in text.split(",") if p.strip()))

    def names(self, image: str) -> bool:
        """Whether an image's name fits a pattern, whatever its digest turns out to be."""
        return any(_fits(pattern, image) for pattern in self.patterns)

    def permits(self, image: str, digests: Iterable[str]) -> bool:
        """Whether an image may be run, that the engine knows by these digests (`name@sha256:...`).

        Where a pattern gives a digest, it is the image of that digest and no other.
        """
        known = {"", *(digest.partition("@")[2] for digest in digests)}
        return any(
            _fits(pattern, image) and pattern.partition("@")[2] in known
            for pattern in self.patterns
        )

    def __str__(self) -> str:
        return ", ".join(self.patterns) or "none at all"


def normal(image: str) -> str:
    """One spelling for names that mean the same: `docker.io/library/alpine` is `alpine:latest`."""
    name, tag = _parts(image)
    return f"{name}{tag}"


def is_named(image: str, names: Iterable[str]) -> bool:
    """Whether an image that has these names was meant: a word may also be the start of an id."""
    return normal(image) in {normal(name) for name in names}


def _parts(image: str) -> tuple[str, str]:
    """The name, and what follows it: `:tag` or `@digest`."""
    image = _HUB.sub("", image, count=1)
    name, at, digest = image.partition("@")
    slash = name.rfind("/")
    colon = name.find(":", slash + 1)
    bare, tag = (name, ":latest") if colon < 0 else (name[:colon], name[colon:])
    return bare, f"{at}{digest}" if at else tag


def _fits(pattern: str, image: str) -> bool:
    """By name and tag; a digest that both give stands for the tag."""
    pattern, _, digest = _HUB.sub("", pattern, count=1).partition("@")
    name, tag = _parts(image)
    if digest and tag == f"@{digest}":
        pattern, tag = _parts(pattern)[0], ""
    has_tag = ":" in pattern[pattern.rfind("/") + 1 :]
    text = f"{name}{tag}" if has_tag else name
    parts = map(re.escape, pattern.split("*"))
    return re.fullmatch(".*".join(parts), text, re.DOTALL) is not None
