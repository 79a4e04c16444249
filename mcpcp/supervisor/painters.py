"""News of a fleet as characters: a live table, log lines or JSON; for one thread only."""

from __future__ import annotations

import io
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from mcpcp.config import Config
from mcpcp.fleet import ProcessStatus, Snapshot


@dataclass(frozen=True, slots=True)
class News:
    """What happened since the last drawing; `lines` are (source, line)."""

    snapshot: Snapshot | None
    lines: tuple[tuple[str, str], ...] = ()
    dropped: int = 0
    summary: str | None = None


class Painter(Protocol):
    """Turns news into what is written; used by one thread only."""

    pause: float
    """Seconds between two drawings at least."""
    tick: float | None
    """Seconds after which to draw again though nothing happened."""

    def paint(self, news: News) -> str:
        """The characters to write now."""


class TablePainter:
    """The live table, redrawn in place: no cleared screen, no hidden cursor, nothing to restore."""

    pause = 0.1
    tick: float | None = 2.0

    def __init__(self, config: Config, size: Callable[[], os.terminal_size]) -> None:
        self._config = config
        self._measure = size
        self._snapshot: Snapshot | None = None
        self._events: deque[str] = deque(maxlen=4)
        self._drawn = 0
        self._size = size()

    def paint(self, news: News) -> str:
        """The changed picture over the one before it."""
        self._snapshot = news.snapshot or self._snapshot
        self._events.extend(line for source, line in news.lines if source == "supervisor")
        if self._snapshot is None:
            return "" if news.summary is None else news.summary + "\n"
        lines = self._render(self._snapshot)
        if news.summary is not None:
            lines += ["", news.summary]
        return self._over(lines)

    def _render(self, snapshot: Snapshot) -> list[str]:
        # Imported here, in the view's thread: the fleet starts meanwhile.
        from rich.console import Console
        from rich.text import Text

        from mcpcp.supervisor.table import clean, frame

        size = self._measure()
        paper = io.StringIO()
        console = Console(file=paper, force_terminal=True, width=size.columns, highlight=False)
        console.print(frame(snapshot, self._config, time.monotonic(), size.columns))
        for event in self._events:
            console.print(Text(clean(event), "dim"), no_wrap=True, overflow="ellipsis")
        lines = paper.getvalue().rstrip("\n").split("\n")
        room = max(1, size.lines - 3)
        return lines if len(lines) <= room else [*lines[: room - 1], "…"]

    def _over(self, lines: list[str]) -> str:
        size, before = self._measure(), self._size
        if self._drawn and size != before:
            start = "\x1b[2J\x1b[H"  # the terminal has moved our lines: begin on an empty screen
        else:
            start = f"\x1b[{self._drawn}F" if self._drawn else "\r"
        self._size, self._drawn = size, len(lines)
        body = "".join(f"{line}\x1b[K\n" for line in lines)
        # Terminals that know mode 2026 show the frame at once; for others it is one write.
        return f"\x1b[?2026h{start}{body}\x1b[J\x1b[?2026l"


class PlainPainter:
    """A line each: `name | text`, the name coloured on a terminal; next steps once all is ready."""

    pause = 0.1
    tick: float | None = None
    _COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)

    def __init__(self, config: Config, coloured: bool) -> None:
        self._config = config
        self._coloured = coloured
        each = (one.name for server in config.servers.values() for one in server.each())
        self._width = max(map(len, (*each, "supervisor")))
        self._greeted = False
        self._sources: dict[str, int] = {}

    def paint(self, news: News) -> str:
        """The new lines."""
        from mcpcp.supervisor.table import clean, next_steps

        lines = [self._line(source, clean(line)) for source, line in news.lines]
        if news.dropped:
            note = f"{news.dropped} lines not shown: the reader is slower than the servers"
            lines.insert(0, self._line("supervisor", note))
        if news.snapshot and news.snapshot.ready and not self._greeted:
            self._greeted = True
            lines += [self._line("mcpcp", f"{a}: {b}") for a, b in next_steps(self._config)]
        if news.summary is not None:
            lines.append(self._line("mcpcp", news.summary))
        return "".join(f"{line}\n" for line in lines)

    def _line(self, source: str, text: str) -> str:
        label = f"{source:<{self._width}} |"
        if self._coloured:
            colour = self._sources.setdefault(source, len(self._sources))
            label = f"\x1b[{self._COLOURS[colour % len(self._COLOURS)]}m{label}\x1b[0m"
        return f"{label} {text}"


class JsonPainter:
    """One JSON object a line: `log`, `state`, `snapshot` and `finish` events, with their time."""

    pause = 0.1
    tick: float | None = None
    quiet = 5.0
    """Seconds between snapshots that differ in figures only."""

    def __init__(self) -> None:
        self._last: Snapshot | None = None
        self._shown = 0.0

    def paint(self, news: News) -> str:
        """The events since the last time."""
        events = [{"event": "log", "source": s, "line": line} for s, line in news.lines]
        if news.dropped:
            events.insert(0, {"event": "dropped", "lines": str(news.dropped)})
        rows: list[dict[str, Any]] = [*events]
        if news.snapshot:
            rows += self._changes(news.snapshot)
        if news.summary is not None:
            rows.append({"event": "finish", "summary": news.summary})
        now = time.time()
        return "".join(json.dumps({"time": now, **row}) + "\n" for row in rows)

    def _changes(self, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
        before = {row.name: row for row in self._rows(self._last)}
        changed = [row for row in self._rows(snapshot) if _moved(before.get(row.name), row)]
        for row in changed:
            yield {"event": "state", **asdict(row)}
        now = time.monotonic()
        if changed or _flags(snapshot) != _flags(self._last) or now - self._shown > self.quiet:
            self._shown = now
            yield {"event": "snapshot", **snapshot.to_wire()}
        self._last = snapshot

    @staticmethod
    def _rows(snapshot: Snapshot | None) -> tuple[ProcessStatus, ...]:
        return () if snapshot is None else (*snapshot.fleet.processes, *snapshot.gateway.servers)


def _moved(before: ProcessStatus | None, after: ProcessStatus) -> bool:
    return before is None or (before.state, before.pid) != (after.state, after.pid)


def _flags(snapshot: Snapshot | None) -> tuple[bool, bool, str | None] | None:
    if snapshot is None:
        return None
    return (snapshot.ready, snapshot.stopping, snapshot.config_error)
