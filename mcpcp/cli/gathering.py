"""Everything that was written about one request: audit record and log lines, by time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mcpcp import audit
from mcpcp.audit.reader import records
from mcpcp.audit.reading import Filter, when
from mcpcp.cli.audit import line_of
from mcpcp.cli.following import open_log
from mcpcp.config import Config

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d)) ")
_LOG_NAME = re.compile(r"(.+)\.log(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Line:
    """What one process wrote, with the traceback that may follow; `moment` in seconds."""

    moment: float
    source: str
    text: str


def gather(config: Config, request: str) -> list[Line]:
    """The lines of the request, the oldest first."""
    found = [*_from_logs(config.data_dir / "logs", request), *_from_audit(config, request)]
    return sorted(found, key=lambda line: line.moment)


def _from_audit(config: Config, request: str) -> Iterator[Line]:
    found = records(audit.chains(config.audit_path))
    for record in filter(Filter(request=_literal(request)), found):
        yield Line(when(record), "audit", line_of(record))


def _literal(text: str) -> str:
    """A pattern for `text` itself."""
    return re.sub(r"([*?\[])", r"[\1]", text)


def _from_logs(folder: Path, request: str) -> Iterator[Line]:
    for path in sorted(folder.glob("*.log*")):
        named = _LOG_NAME.fullmatch(path.name)
        if named is not None:
            with open_log(path) or nullcontext() as lines:
                yield from _of_request(named[1], lines or (), request)


def _of_request(source: str, lines: Iterable[str], request: str) -> Iterator[Line]:
    marks = (f" request={request}", f'"request": {json.dumps(request)}')
    for entry in _entries(lines):
        first = entry.partition("\n")[0]
        if any(_holds(first, mark) for mark in marks):
            yield Line(_moment(first), source, entry)


def _holds(line: str, mark: str) -> bool:
    """Whether the line has the mark, and not that of an id which only begins so."""
    at = line.find(mark)
    return at >= 0 and line[at + len(mark) : at + len(mark) + 1] in ("", " ", ",", "}")


def _entries(lines: Iterable[str]) -> Iterator[str]:
    """Lines with those that belong to them: a traceback has no time of its own."""
    entry = ""
    for line in lines:
        if entry and (_MOMENT.match(line) or line.startswith("{")):
            yield entry.rstrip("\n")
            entry = ""
        entry += line
    if entry:
        yield entry.rstrip("\n")


def _moment(line: str) -> float:
    if line.startswith("{"):
        try:
            text = str(json.loads(line).get("time"))
        except ValueError:
            return 0.0
    else:
        matched = _MOMENT.match(line)
        text = matched[1] if matched else ""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
