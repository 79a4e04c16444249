"""What the conformance tool found, and how two findings differ: all of it pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROVING = frozenset({"SUCCESS", "FAILURE", "WARNING"})
"""Statuses that say something was tried. A scenario without any is "0 passed, 0 failed"."""

_FOLDER = re.compile(r"(?:server-)?(?P<scenario>.+?)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True, slots=True, order=True)
class Check:
    """One verdict of the tool; `reason` is for people, and says nothing about sameness."""

    scenario: str
    id: str
    name: str
    status: str
    reason: str = field(default="", compare=False)

    @property
    def what(self) -> tuple[str, str, str]:
        """What was checked."""
        return self.scenario, self.id, self.name


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of the tool found, by scenario; `said` is what it and its client printed."""

    scenarios: Mapping[str, tuple[Check, ...]]
    said: str = ""

    def checks(self) -> Iterator[Check]:
        for checks in self.scenarios.values():
            yield from checks

    def bad(self) -> list[Check]:
        """What failed, or only warned."""
        return sorted(c for c in self.checks() if c.status in ("FAILURE", "WARNING"))

    def silent(self) -> list[str]:
        """Scenarios that proved nothing."""
        return sorted(
            name
            for name, checks in self.scenarios.items()
            if not any(check.status in PROVING for check in checks)
        )


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """A check that is not through the gateway what it is directly; None where it is missing."""

    scenario: str
    id: str
    name: str
    direct: str | None
    through: str | None
    reason: str = field(default="", compare=False)

    def __str__(self) -> str:
        line = f"  {self.id}: {self.direct or 'not there'} -> {self.through or 'lost'}"
        return f"{line}\n      {self.reason}" if self.reason else line


def read(folder: Path, said: str = "") -> Report:
    """The report that the tool wrote into `folder` with `--output-dir`."""
    scenarios = {}
    for file in sorted(folder.rglob("checks.json")):
        place = str(file.parent.relative_to(folder))
        match = _FOLDER.fullmatch(place)
        assert match, f"not a folder of the tool: {place}"
        scenario = match["scenario"]
        scenarios[scenario] = tuple(_check(scenario, each) for each in json.loads(file.read_text()))
    return Report(scenarios, said)


def _check(scenario: str, said: Mapping[str, Any]) -> Check:
    reason = str(said.get("errorMessage") or "")
    if said["status"] in ("FAILURE", "WARNING") and said.get("details"):
        reason = f"{reason} | {json.dumps(said['details'])[:600]}"
    return Check(scenario, said["id"], said["name"], said["status"], reason)


def differences(direct: Report, through: Report) -> list[Difference]:
    """Every check that was lost, came new or changed its status on the way."""
    found: list[Difference] = []
    for scenario in sorted(direct.scenarios.keys() | through.scenarios.keys()):
        found += _in_scenario(
            scenario, direct.scenarios.get(scenario, ()), through.scenarios.get(scenario, ())
        )
    return found


def _in_scenario(
    scenario: str, direct: tuple[Check, ...], through: tuple[Check, ...]
) -> Iterator[Difference]:
    before, after = _by_what(direct), _by_what(through)
    reasons = {(check.what, check.status): check.reason for check in through}
    for what in sorted(before.keys() | after.keys()):
        old, new = before.get(what, Counter()), after.get(what, Counter())
        if old == new:
            continue
        reason = "; ".join(reasons[what, status] for status in new - old)
        yield Difference(*what, _show(old), _show(new), reason)
    if not any(check.status in PROVING for check in through):
        yield Difference(scenario, "(scenario)", "", _proved(direct), "0 passed, 0 failed")


def _by_what(checks: tuple[Check, ...]) -> dict[tuple[str, str, str], Counter[str]]:
    """The statuses of each thing checked. How often the tool informs depends on the moment; it
    counts once."""
    grouped: dict[tuple[str, str, str], Counter[str]] = {}
    for check in checks:
        statuses = grouped.setdefault(check.what, Counter())
        statuses[check.status] = 1 if check.status == "INFO" else statuses[check.status] + 1
    return grouped


def _show(statuses: Counter[str]) -> str | None:
    if not statuses:
        return None
    return ", ".join(
        status if number == 1 else f"{number} x {status}"
        for status, number in sorted(statuses.items())
    )


def _proved(checks: tuple[Check, ...]) -> str:
    passed = sum(check.status == "SUCCESS" for check in checks)
    failed = sum(check.status == "FAILURE" for check in checks)
    return f"{passed} passed, {failed} failed"


def render(found: list[Difference]) -> str:
    """The differences, by scenario."""
    lines = []
    last = None
    for difference in found:
        if difference.scenario != last:
            last = difference.scenario
            lines.append(last)
        lines.append(str(difference))
    return "\n".join(lines)
