"""What shows a fleet: a live table, log lines, or JSON; drawn in a thread that may fall behind.

Above: the supervisor, whose event loop hands over news and goes on at once. Below: `painters` and
`outlet`.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mcpcp.config import Config
from mcpcp.fleet import Snapshot
from mcpcp.supervisor.options import Ui, View
from mcpcp.supervisor.outlet import WAIT, Gone, Outlet
from mcpcp.supervisor.painters import JsonPainter, News, Painter, PlainPainter, TablePainter

QUEUED_LINES = 2000
LONGEST_LINE = 4000


class ThreadedView:
    """Its thread paints the newest snapshot and the queued lines as fast as the outlet goes."""

    def __init__(self, painter: Painter, outlet: Outlet, on_lost: Callable[[], None]) -> None:
        self._painter = painter
        self._outlet = outlet
        self._on_lost = on_lost
        self._changed = threading.Condition()
        self._snapshot: Snapshot | None = None
        self._lines: deque[tuple[str, str]] = deque()
        self._dropped = 0
        self._summary: str | None = None
        self._closed = False
        # A daemon: a thread that a stopped terminal holds must not hold the process.
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def update(self, snapshot: Snapshot) -> None:
        """Something changed; only the newest snapshot matters."""
        with self._changed:
            self._snapshot = snapshot
            self._changed.notify()

    def log(self, source: str, line: str) -> None:
        """Process `source` wrote `line`; the oldest lines give way when nobody reads."""
        with self._changed:
            if len(self._lines) >= QUEUED_LINES:
                self._lines.popleft()
                self._dropped += 1
            self._lines.append((source, line[:LONGEST_LINE]))
            self._changed.notify()

    def finish(self, summary: str) -> None:
        """The fleet has stopped; `summary` is the last line."""
        with self._changed:
            self._summary = summary
            self._changed.notify()

    def close(self) -> None:
        """Write what is left, for as long as the reader takes it; a slow machine loses nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._outlet.closing.set()
        refused = 0
        while self._thread.is_alive() and refused < 2 * self._outlet.last_waits:
            taken = self._outlet.taken
            self._thread.join(WAIT)
            held = self._outlet.offering and self._outlet.taken == taken
            refused = refused + 1 if held else 0

    def _run(self) -> None:
        try:
            while True:
                news, last = self._wait()
                self._outlet.write(self._painter.paint(news))
                if last:
                    return
                self._outlet.closing.wait(self._painter.pause)
        except Gone as gone:
            if gone.terminal and not self._closed:  # afterwards there is nobody to tell
                self._on_lost()

    def _wait(self) -> tuple[News, bool]:
        with self._changed:
            self._changed.wait_for(self._has_news, self._painter.tick)
            news = News(self._snapshot, tuple(self._lines), self._dropped, self._summary)
            self._snapshot, self._dropped, self._summary = None, 0, None
            self._lines.clear()
            return news, self._closed

    def _has_news(self) -> bool:
        return bool(self._snapshot or self._lines or self._summary is not None or self._closed)


class NoView:
    """For a fleet that nobody watches."""

    def update(self, snapshot: Snapshot) -> None:
        """Nothing to show."""

    def log(self, source: str, line: str) -> None:
        """Nothing to show."""

    def finish(self, summary: str) -> None:
        """Nothing to show."""


@contextmanager
def open_view(
    ui: Ui, config: Config, on_lost: Callable[[], None], descriptor: int = 1
) -> Iterator[View]:
    """The view for `ui`; `on_lost` is called, from the view's thread, if the terminal hangs up."""
    if ui == "none":
        yield NoView()
        return
    outlet = Outlet(descriptor)
    view = ThreadedView(_painter(ui, config, outlet, descriptor), outlet, on_lost)
    view.start()
    try:
        yield view
    finally:
        view.close()


def _painter(ui: Ui, config: Config, outlet: Outlet, descriptor: int) -> Painter:
    if ui == "table":
        return TablePainter(config, outlet.size)
    if ui == "json":
        return JsonPainter()
    return PlainPainter(config, _coloured(descriptor))


def _coloured(descriptor: int) -> bool:
    """Whether colours are wanted there: a terminal, not a dumb one, and no NO_COLOR."""
    from rich.console import Console

    if not os.isatty(descriptor):
        return False
    console = Console(force_terminal=True)
    return console.color_system is not None and not console.no_color
