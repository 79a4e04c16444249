"""The picture of a fleet: a snapshot in, rich renderables out; nothing here waits or writes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mcpcp.config import Config
from mcpcp.fleet import GATEWAY, ProcessState, ProcessStatus, Snapshot
from mcpcp.policy import Allowlist

STATE_STYLE = {
    ProcessState.RUNNING: "green",
    ProcessState.STARTING: "cyan",
    ProcessState.BACKOFF: "yellow",
    ProcessState.STOPPING: "cyan",
    ProcessState.STOPPED: "dim",
    ProcessState.EXITED: "dim",
    ProcessState.FATAL: "bold red",
}
TROUBLE = (ProcessState.BACKOFF, ProcessState.FATAL, ProcessState.EXITED)

# Terminals obey what they are sent: a tool server's text must not move the cursor or clear lines.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.?)", re.DOTALL)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """`text` without escape sequences and control characters."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text)).replace("\n", " ").expandtabs(4)


def duration(seconds: float) -> str:
    """Two units at most: 7s, 3m12s, 2h05m, 4d11h."""
    total = max(0, int(seconds))
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02}s"
    if total < 86400:
        return f"{total // 3600}h{total // 60 % 60:02}m"
    return f"{total // 86400}d{total // 3600 % 24:02}h"


def size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 2**20:.0f} MB" if count < 2**30 else f"{count / 2**30:.1f} GB"


@dataclass(frozen=True)
class Column:
    """A column; where the terminal is narrow the one with the highest `rank` goes first."""

    title: str
    rank: int
    cell: Callable[[ProcessStatus, float], Text | str]
    right: bool = False


def _state(status: ProcessStatus, now: float) -> Text:
    text = Text(str(status.state), STATE_STYLE[status.state])
    if status.state is ProcessState.BACKOFF and status.next_try is not None:
        text.append(f" {duration(status.next_try - now)}", "dim")
    if _ailment(status):
        text.append(" degraded", "yellow")
    return text


def _ailment(status: ProcessStatus) -> str:
    """What a serving server says it lacks; health is "ok", or "degraded: why"."""
    if status.state is not ProcessState.RUNNING or status.health in (None, "ok"):
        return ""
    return clean(str(status.health)).removeprefix("degraded: ")


def _uptime(status: ProcessStatus, now: float) -> str:
    return duration(now - status.since) if status.state is ProcessState.RUNNING else ""


def _cpu(status: ProcessStatus, _now: float) -> str:
    return "" if status.cpu_percent is None else f"{status.cpu_percent:.0f} %"


def _memory(status: ProcessStatus, _now: float) -> str:
    return "" if status.memory_bytes is None else size(status.memory_bytes)


def _error(status: ProcessStatus, _now: float) -> Text:
    ailment = _ailment(status)
    if ailment:
        return Text(ailment, "yellow")
    return Text(clean(status.error or ""), "red" if status.state in TROUBLE else "dim")


ERROR = Column("last error", 1, _error)
COLUMNS = (
    Column("server", 0, lambda s, _: Text(clean(s.name), "bold")),
    Column("state", 0, _state),
    Column("pid", 4, lambda s, _: str(s.pid or ""), right=True),
    Column("port", 2, lambda s, _: str(s.port or ""), right=True),
    Column("uptime", 3, _uptime, right=True),
    Column("restarts", 5, lambda s, _: str(s.restarts or ""), right=True),
    Column("CPU", 6, _cpu, right=True),
    Column("memory", 6, _memory, right=True),
    ERROR,
)
GAP = 2


def columns_for(rows: Sequence[ProcessStatus], now: float, width: int) -> dict[Column, int]:
    """The columns that `width` characters have room for, each with its width."""
    widths = {c: max([len(c.title), *(len(c.cell(row, now)) for row in rows)]) for c in COLUMNS}
    errors = min(widths[ERROR], 24)
    while (room := width - sum(w + GAP for c, w in widths.items() if c is not ERROR)) < errors:
        last = max(widths, key=lambda column: column.rank)
        if last.rank == 0:
            break
        del widths[last]
        errors = errors if ERROR in widths else 0
    if ERROR in widths:
        widths[ERROR] = room
    return widths


def servers_table(rows: Sequence[ProcessStatus], now: float, width: int) -> Table:
    """One line a process."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    columns = columns_for(rows, now, width)
    for column, room in columns.items():
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(
            column.title, width=room, justify=justify, no_wrap=True, overflow="ellipsis"
        )
    for status in rows:
        table.add_row(*(column.cell(status, now) for column in columns))
    return table


def rows_of(snapshot: Snapshot) -> tuple[ProcessStatus, ...]:
    """The servers in their order, and the gateway last."""
    gateway = snapshot.fleet.get(GATEWAY)
    return (*snapshot.servers, *([gateway] if gateway else []))


def headline(snapshot: Snapshot, now: float) -> Text:
    """What the fleet as a whole is doing."""
    servers = snapshot.servers
    running = sum(s.state is ProcessState.RUNNING for s in servers)
    if snapshot.stopping:
        word, style = "stopping", "cyan"
    elif snapshot.ready and running == len(servers):
        word, style = "ready", "bold green"
    elif snapshot.ready:
        word, style = "ready, not complete", "bold yellow"
    else:
        word, style = "starting", "cyan"
    text = Text.assemble(("mcpcp ", "bold"), (word, style))
    text.append(f"  {running} of {len(servers)} servers up", "dim")
    if snapshot.started:
        text.append(f"  {duration(now - snapshot.started)}", "dim")
    return text


def calls(snapshot: Snapshot) -> Text:
    """The gateway's counts."""
    report = snapshot.gateway
    text = Text.assemble(("calls ", "dim"), str(report.calls), ("   errors ", "dim"))
    text.append(str(report.errors), "red" if report.errors else "")
    text.append("   denied ", "dim")
    text.append(str(report.denied), "yellow" if report.denied else "")
    text.append("   in flight ", "dim").append(str(report.in_flight))
    text.append("   connections ", "dim").append(str(report.connections))
    return text


def troubles(snapshot: Snapshot, now: float, width: int) -> Iterator[Text]:
    """What the table's last column has too little room for, in full."""
    room = columns_for(rows_of(snapshot), now, width).get(ERROR, 0)
    if snapshot.config_error:
        yield Text.assemble(
            ("config ", "bold yellow"),
            "the last good one stays in force: ",
            clean(snapshot.config_error),
        )
    for status in rows_of(snapshot):
        if status.error and status.state in TROUBLE and len(clean(status.error)) > room:
            yield Text.assemble((f"{clean(status.name)} ", "bold red"), clean(status.error))


def grant(allow: Allowlist) -> str:
    """The servers that an agent may use, as one short phrase."""
    servers = [server for server, tools in allow.rules if tools]
    return "every server" if "*" in servers else ", ".join(servers) or "nothing"


def next_steps(config: Config) -> tuple[tuple[str, str], ...]:
    """What a person may want to do now: (title, text)."""
    address = f"http://{config.gateway.host}:{config.gateway.port}"
    agents = "   ".join(f"{name}: {grant(allow)}" for name, allow in config.agents.items())
    return (
        ("gateway", f"{address}/mcp   (old clients: {address}/sse)"),
        ("agents", agents or "none yet: add some to " + config.path.name),
        ("try it", "python client.py"),
        ("Claude Desktop", f"{mcpcp_command()} install claude-desktop"),
        ("stop", "Ctrl+C"),
    )


def mcpcp_command() -> str:
    """How to type `mcpcp` here: beside this interpreter, relative where that is shorter."""
    name = "mcpcp.exe" if sys.platform == "win32" else "mcpcp"
    script = Path(sys.executable).with_name(name)
    if not script.exists():
        return "python -m mcpcp"
    try:
        return str(script.relative_to(Path.cwd()))
    except ValueError:
        return str(script)


def _steps(config: Config) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in next_steps(config):
        table.add_row(title, text)
    return table


def frame(snapshot: Snapshot, config: Config, now: float, width: int) -> Group:
    """The whole picture; `now` is monotonic seconds, `width` is in characters."""
    parts: list[RenderableType] = [headline(snapshot, now), ""]
    parts += [servers_table(rows_of(snapshot), now, width), "", calls(snapshot)]
    parts += [*troubles(snapshot, now, width), ""]
    if not snapshot.stopping:
        parts.append(_steps(config))
    return Group(*parts)
