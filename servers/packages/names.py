"""Names, versions and pins of packages, as a caller may write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from servers.packages.errors import NotAPackage

_NAME = re.compile(r"\A[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?\Z", re.ASCII | re.IGNORECASE)
_VERSION = re.compile(
    r"\A(?:[0-9]+!)?[0-9]+(?:\.[0-9]+)*(?:(?:a|b|rc)[0-9]+)?(?:\.post[0-9]+)?(?:\.dev[0-9]+)?"
    r"(?:\+[a-z0-9]+(?:\.[a-z0-9]+)*)?\Z",
    re.ASCII,
)
_SEPARATORS = re.compile(r"[-_.]+")
LONGEST = 100


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """A package by its normalized name, of one version or of any."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


def normalized(name: str) -> str:
    """The name as PEP 503 compares it; raises NotAPackage."""
    if len(name) > LONGEST or not _NAME.match(name):
        raise NotAPackage(
            f"{name[:LONGEST]!r} is no package name: letters, digits, '-', '_' and '.', beginning"
            " and ending with a letter or digit; no extras, addresses or paths"
        )
    return _SEPARATORS.sub("-", name).lower()


def checked_version(version: str) -> str:
    """The version as it is; raises NotAPackage unless it is one exact version."""
    if len(version) > LONGEST or not _VERSION.match(version):
        raise NotAPackage(
            f"{version[:LONGEST]!r} is no version: write an exact one such as 2.1.0 or 1.0rc1,"
            " without comparison signs or wildcards"
        )
    return version


def same_version(a: str, b: str) -> bool:
    """Whether an index takes two versions for one, like 1.0 and 1.0.0; both have to be checked."""
    return _canonical(a) == _canonical(b)


def _canonical(version: str) -> str:
    numbers = re.sub(r"(?<![0-9])0+(?=[0-9])", "", version.partition("+")[0].removeprefix("0!"))
    return re.sub(r"(?:\.0)+(?=\Z|\.?[a-z])", "", numbers, count=1)


def requirement(text: str) -> Requirement:
    """`name` or `name==version`; raises NotAPackage."""
    name, pinned, version = text.strip(" ").partition("==")
    return Requirement(normalized(name), checked_version(version) if pinned else None)
