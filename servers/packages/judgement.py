"""May a package be had? Purely: a requirement, the rules and the approvals give a verdict."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from servers.packages.imitation import Known, is_standard_library, well_known
from servers.packages.names import Requirement, requirement, same_version

Strictness = Literal["suspicious", "unknown", "all"]
STRICTNESSES: tuple[Strictness, ...] = get_args(Strictness)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`allowed`, `requires_approval` (by a person), or `blocked` (for good); and why."""

    status: Literal["allowed", "requires_approval", "blocked"]
    package: Requirement
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decides; `approve` says which packages a person must let in.

    `known` is called when a name has to be compared: the list takes a moment to read.
    """

    blocked: frozenset[Requirement]
    approve: Strictness = "suspicious"
    known: Callable[[], Known] = well_known


def judge(package: Requirement, rules: Rules, approved: Collection[Requirement]) -> Verdict:
    """The verdict on one package; with no version, on the name alone."""
    name = Requirement(package.name)
    if any(_is_meant(package, blocked) for blocked in rules.blocked):
        return Verdict("blocked", package, "it is on the blocklist")
    if name in approved or package in approved:
        return Verdict("allowed", package)
    if package.version is None and any(a.name == package.name for a in approved):
        return Verdict("allowed", package)  # one version is: the resolution says which comes
    reason = _doubt(package.name, rules)
    return Verdict("requires_approval", package, reason) if reason else Verdict("allowed", package)


def _is_meant(package: Requirement, by: Requirement) -> bool:
    """However the version is written, and whatever local label a rebuilt one has."""
    if package.name != by.name or by.version is None:
        return package.name == by.name
    return package.version is not None and same_version(package.version, by.version)


def _doubt(name: str, rules: Rules) -> str | None:
    if rules.approve == "all":
        return "every package needs an approval here"
    known = rules.known()
    if name in known.names:
        return None
    imitated = known.imitated_by(name)
    if imitated is not None:
        return f"its name can be mistaken for {imitated}"
    if is_standard_library(name):
        return "it has the name of a module that comes with Python"
    if rules.approve == "unknown":
        return "it is not on the list of well-known packages"
    return None


def worst(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Those that stand in the way: the blocked ones, else those that need an approval."""
    found = [v for v in verdicts if v.status != "allowed"]
    return tuple(v for v in found if v.status == "blocked") or tuple(found)


@cache
def shipped_blocklist() -> frozenset[Requirement]:
    """The list that comes with the project."""
    return blocklist(Path(__file__).with_name("blocked.txt").read_text("ascii"))


def blocklist(text: str) -> frozenset[Requirement]:
    """`name` or `name==version`, by commas or lines, `#` to the end of a line is a comment.

    Raises NotAPackage.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    words = (word for line in lines for word in line.replace(",", " ").split())
    return frozenset(requirement(word) for word in words)
