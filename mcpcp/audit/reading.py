"""Which records of the audit log are meant, and when they were written. (pure)"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """What a record must be; None and empty stand for anything, `*` in a name for any run.

    `tool` is a tool's name, or SERVER:TOOL; times are seconds since 1970.
    """

    agent: str | None = None
    server: str | None = None
    tool: str | None = None
    outcomes: frozenset[str] = frozenset()
    request: str | None = None
    since: float | None = None
    until: float | None = None

    def __call__(self, record: Record) -> bool:
        """Whether the record is meant; what the log notes about itself has only a time."""
        if not self._is_in_time(record):
            return False
        if self._is_open:
            return True
        return "event" not in record and self._fits(record)

    @property
    def _is_open(self) -> bool:
        return not (self.agent or self.server or self.tool or self.outcomes or self.request)

    def _is_in_time(self, record: Record) -> bool:
        moment = when(record)
        if self.since is not None and moment < self.since:
            return False
        return self.until is None or moment <= self.until

    def _fits(self, record: Record) -> bool:
        server, _, tool = (self.tool or "").rpartition(":")
        wanted = (
            ("agent", self.agent),
            ("server", self.server),
            ("server", server),
            ("tool", tool),
            ("request_id", self.request),
        )
        if self.outcomes and record.get("outcome") not in self.outcomes:
            return False
        return all(fnmatchcase(str(record.get(key, "")), p) for key, p in wanted if p)


def when(record: Record) -> float:
    """The record's time, in seconds since 1970; 0 where it has none that can be read."""
    moment = record.get("ts")
    return float(moment) if isinstance(moment, int | float) else 0.0
