"""The view, on real terminals and pipes: good ones, narrow, stopped, closed and broken."""

from __future__ import annotations

import json
import os
import pty
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcpcp.config import Config, GatewayConfig, MonitoringConfig, ServerConfig
from mcpcp.fleet import FleetState, GatewayReport, ProcessState, ProcessStatus, Snapshot
from mcpcp.policy import Allowlist
from mcpcp.supervisor.options import Ui
from mcpcp.supervisor.outlet import WAIT, Outlet
from mcpcp.supervisor.painters import News, PlainPainter
from mcpcp.supervisor.view import ThreadedView, open_view
from tests.terminal import PATIENCE, terminal

STRANGER = "port 9005 is used by pid 4242 (python3 -m http.server 9005)"
CONFIG = Config(
    path=Path("/somewhere/mcpcp.json"),
    servers={name: ServerConfig(name, "sse") for name in ("mcp1", "mcp2")},
    gateway=GatewayConfig(port=9003),
    agents={"agent_name1": Allowlist.of({"mcp1": ["*"]}), "claude": Allowlist.of({"*": ["*"]})},
    keys_dir=Path("/somewhere/keys"),
    data_dir=Path("/somewhere/data"),
    monitoring=MonitoringConfig(Path("/somewhere/data/scrape.token")),
)


def snapshot(**changes: Any) -> Snapshot:
    now = time.monotonic()
    processes = (
        ProcessStatus("mcp1", ProcessState.RUNNING, 1234, 9004, now - 65, 2, memory_bytes=27 << 20),
        ProcessStatus("mcp2", ProcessState.FATAL, None, 9005, now, 5, error=STRANGER),
        ProcessStatus("gateway", ProcessState.RUNNING, 1235, 9003, now - 64),
    )
    whole = Snapshot(
        FleetState(1, processes), GatewayReport(calls=12, denied=3), started=now - 66, ready=True
    )
    return replace(whole, **changes)


def nobody_hears() -> None:
    raise AssertionError("the terminal is there")


def written(ui: Ui, *, lines: int = 1, text: str = "hello") -> str:
    """What a view writes to a pipe for a snapshot, some lines and the end."""
    reading, writing = os.pipe()
    with open_view(ui, CONFIG, nobody_hears, writing) as view:
        view.update(snapshot())
        for _ in range(lines):
            view.log("mcp1", text)
        view.finish("2 servers stopped")
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        return pipe.read()


def test_the_table_shows_every_process_and_what_to_do_next() -> None:
    with (
        terminal(120, 30) as screen,
        open_view("table", CONFIG, nobody_hears, screen.descriptor) as v,
    ):
        v.update(snapshot())
        shown = screen.wait_for("Ctrl+C")
    rows = {line.split()[0]: line for line in reversed(shown) if line}
    assert "RUNNING" in rows["mcp1"]
    assert re.search(r" \d+m\d\ds ", rows["mcp1"])
    assert "27 MB" in rows["mcp1"]
    assert "FATAL" in rows["mcp2"]
    assert "9003" in rows["gateway"]
    text = "\n".join(shown)
    assert STRANGER in text
    assert "calls 12" in text
    assert "denied 3" in text
    assert "python client.py" in text
    assert "install claude-desktop" in text


def test_the_table_is_drawn_over_itself_and_follows_the_window() -> None:
    with (
        terminal(120, 30) as screen,
        open_view("table", CONFIG, nobody_hears, screen.descriptor) as v,
    ):
        for calls in range(100, 110):
            v.update(snapshot(gateway=GatewayReport(calls=calls)))
            screen.wait_for(f"calls {calls}")
        assert sum(line.startswith("mcp1 ") for line in screen.lines()) == 1
        screen.resize(50, 20)
        v.update(snapshot(gateway=GatewayReport(calls=777)))
        shown = screen.wait_for("calls 777")
        assert sum(line.startswith("mcp1 ") for line in shown) == 1


@pytest.mark.parametrize("columns", [20, 30, 45, 60, 80])
def test_a_narrow_terminal_still_shows_names_and_states(columns: int) -> None:
    with (
        terminal(columns, 40) as screen,
        open_view("table", CONFIG, nobody_hears, screen.descriptor) as v,
    ):
        v.update(snapshot())
        shown = screen.wait_for(lambda lines: any(line.startswith("gateway") for line in lines))
    assert any(line.startswith("mcp1") and "RUNNING" in line for line in shown)
    assert any(line.startswith("mcp2") and "FATAL" in line for line in shown)


def test_a_servers_words_cannot_command_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;title\x07gone\rover\x9b31m"
    with (
        terminal(120, 30) as screen,
        open_view("plain", CONFIG, nobody_hears, screen.descriptor) as v,
    ):
        v.log("mcp1", evil)
        screen.wait_for("gone")
        assert b"\x1b[2J" not in screen.raw
        assert b"\x1b]0" not in screen.raw
        assert "\x9b".encode() not in screen.raw
    bad = replace(snapshot().fleet.processes[1], error=evil)
    with (
        terminal(120, 30) as screen,
        open_view("table", CONFIG, nobody_hears, screen.descriptor) as v,
    ):
        v.update(snapshot(fleet=FleetState(2, (bad,))))
        screen.wait_for("gone")
        assert b"\x1b]0" not in screen.raw


def test_plain_lines_are_prefixed_and_have_no_colour_in_a_pipe() -> None:
    text = written("plain", lines=2)
    assert text.count("mcp1       | hello\n") == 2
    assert "\x1b" not in text
    assert text.splitlines()[-1] == "mcpcp      | 2 servers stopped"


def test_a_machine_too_slow_to_draw_in_time_loses_no_words() -> None:
    class Slow(PlainPainter):
        def paint(self, news: News) -> str:
            threading.Event().wait(10 * WAIT)  # as long as its imports may take
            return super().paint(news)

    reading, writing = os.pipe()
    outlet = Outlet(writing, last_waits=1)
    view = ThreadedView(Slow(CONFIG, coloured=False), outlet, nobody_hears)
    view.start()
    view.finish("2 servers stopped")
    view.close()
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        assert "2 servers stopped" in pipe.read()


def test_no_color_is_heeded_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for variable, coloured in ((None, True), ("1", False)):
        if variable:
            monkeypatch.setenv("NO_COLOR", variable)
        with (
            terminal(80, 10) as screen,
            open_view("plain", CONFIG, nobody_hears, screen.descriptor) as view,
        ):
            view.log("mcp1", "hello")
            screen.wait_for("hello")
            assert (b"\x1b[" in screen.raw) is coloured


def test_json_is_one_object_a_line_and_ends_with_finish() -> None:
    events = [json.loads(line) for line in written("json").splitlines()]
    kinds = [event["event"] for event in events]
    assert {"log", "state", "snapshot", "finish"} == set(kinds)
    assert kinds[-1] == "finish"
    states = {e["name"]: e["state"] for e in events if e["event"] == "state"}
    assert states == {"mcp1": "RUNNING", "mcp2": "FATAL", "gateway": "RUNNING"}
    assert next(e for e in events if e["event"] == "snapshot")["servers"][0]["name"] == "mcp1"


@pytest.mark.parametrize("ui", ["table", "plain", "json"])
def test_a_reader_that_stopped_holds_nobody_up(ui: Ui) -> None:
    reading, writing = os.pipe()
    # Nobody ever reads: whoever waited for a reader would wait for good.
    with open_view(ui, CONFIG, nobody_hears, writing) as view:
        for number in range(20_000):
            view.log("mcp1", f"line {number} " + "x" * 200)
            if number % 100 == 0:
                view.update(snapshot())
        view.finish("2 servers stopped")
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("ui", ["table", "plain"])
def test_a_terminal_that_hangs_up_is_reported_once(ui: Ui) -> None:
    master, slave = pty.openpty()
    lost = threading.Semaphore(0)
    with open_view(ui, CONFIG, lost.release, slave) as view:
        os.close(master)
        view.update(snapshot())
        view.log("mcp1", "hello")
        assert lost.acquire(timeout=PATIENCE)
        view.log("mcp1", "hello again")
        view.update(snapshot())
    assert not lost.acquire(blocking=False)
    os.close(slave)


def test_a_broken_pipe_stops_the_view_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open_view("plain", CONFIG, nobody_hears, writing) as view:
        for _ in range(100):
            view.log("mcp1", "hello")
        view.finish("2 servers stopped")
    os.close(writing)


def test_lines_that_nobody_could_read_are_counted() -> None:
    reading, writing = os.pipe()
    with open_view("json", CONFIG, nobody_hears, writing) as view:
        for number in range(50_000):
            view.log("mcp1", f"{number}")
        text = ""
        with os.fdopen(reading, encoding="utf-8", closefd=False) as pipe:
            logged = dropped = 0
            while logged + dropped < 50_000:
                event = json.loads(text := pipe.readline())
                logged += event["event"] == "log"
                dropped += int(event["lines"]) if event["event"] == "dropped" else 0
    assert dropped > 0
    assert json.loads(text)["line"] == "49999"
    os.close(reading)
    os.close(writing)
