"""The launcher against supervisord, with the same scripts, in one run on this machine.

    python3 -m benchmarks.launch            # needs: pip install -e '.[dev,bench]'

Three figures, as ratios: the way to ready of the default fleet (without the shop, which waits for
its database), a killed server's way back to serving, and what an idle supervisor of ten servers
costs. Ready means: every tool of every server can be listed through the gateway.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.fleet import PROJECT, CallFailed, Fleet, make_keys, open_fleet, rpc

TOOLS = 9
"""What these offer: 3 + 2 + 2 tools with echo in each, and 2 of the time server."""
SCRIPTS = {
    "mcp1": "battle.py",
    "mcp2": "docker_commands.py",
    "mcp3": "python_code.py",
    "time": "time_client.py",
}
IDLE_SECONDS = 20.0


@contextlib.contextmanager
def prepared(keys: Path, servers: dict[str, Path]) -> Iterator[Fleet]:
    """A config with those scripts on free ports."""
    with (
        tempfile.TemporaryDirectory(prefix="mcpcp-bench-") as folder,
        open_fleet(Path(folder), keys) as fleet,
    ):
        for name, script in servers.items():
            fleet.add(name, script)
        fleet.write()
        fleet.token()  # made before the clock runs
        yield fleet


def default_fleet() -> dict[str, Path]:
    """The scripts of mcpcp.json that need nothing beside them: the shop waits for its database."""
    return {name: PROJECT / "servers" / script for name, script in SCRIPTS.items()}


@contextlib.contextmanager
def ours(fleet: Fleet, *flags: str) -> Iterator[psutil.Process]:
    """The launcher, running."""
    process = fleet.start(*flags)
    try:
        yield psutil.Process(process.pid)
    finally:
        fleet.stop(process)


@contextlib.contextmanager
def supervisord(fleet: Fleet) -> Iterator[psutil.Process]:
    """supervisord with the same scripts and the same gateway, running in the foreground."""
    programs = {
        name: " ".join([sys.executable, *entry["args"], "--transport", entry["type"]])
        + f" --host 127.0.0.1 --port {entry['port']}"
        for name, entry in fleet.servers.items()
    }
    programs["gateway"] = f"{sys.executable} -m mcpcp serve --config {fleet.config}"
    text = f"[supervisord]\nnodaemon=true\nlogfile={fleet.folder}/supervisord.log\n"
    text += f"pidfile={fleet.folder}/supervisord.pid\n"
    for name, command in programs.items():
        text += f"[program:{name}]\ncommand={command}\ndirectory={fleet.folder}\n"
    conf = fleet.folder / "supervisord.conf"
    conf.write_text(text)
    binary = Path(sys.executable).with_name("supervisord")
    process = subprocess.Popen(
        [str(binary), "-c", str(conf)],
        cwd=fleet.folder,
        env=fleet.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def offers_everything(fleet: Fleet) -> bool:
    """Whether the gateway lists every tool."""
    url = f"http://127.0.0.1:{fleet.gateway['port']}/mcp"
    try:
        return len(rpc(url, fleet.token(), "tools/list", {}, 5)["tools"]) >= TOOLS
    except CallFailed:  # not up yet
        return False


def until(condition: Callable[[], object], timeout: float = 60) -> float:
    """Seconds until the condition was true."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > timeout:
            raise TimeoutError("not ready in time")
        time.sleep(0.005)
    return time.perf_counter() - began


def served_by(port: int) -> int:
    """The pid that answers /health; 0 while nobody does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return int(json.load(answer)["pid"])
    except (OSError, ValueError):
        return 0


def until_another_serves(port: int, victim: int) -> float:
    """Seconds until a process other than `victim` answers there."""
    return until(lambda: served_by(port) not in (0, victim))


def measure_start(
    keys: Path, run: Callable[[Fleet], contextlib.AbstractContextManager[object]]
) -> float:
    """Seconds from the command to the whole list of tools."""
    with prepared(keys, default_fleet()) as fleet:
        began = time.perf_counter()
        with run(fleet):
            until(lambda: offers_everything(fleet))
            return time.perf_counter() - began


def measure_restart(
    keys: Path, run: Callable[[Fleet], contextlib.AbstractContextManager[object]], times: int
) -> list[float]:
    """Seconds from SIGKILL of a server to the answer of the next one."""
    with prepared(keys, default_fleet()) as fleet, run(fleet):
        until(lambda: offers_everything(fleet))
        port = fleet.servers["time"]["port"]
        found = []
        for _ in range(times):
            time.sleep(1.5)  # longer than supervisord's startsecs: else it counts a failed start
            victim = served_by(port)
            os.kill(victim, signal.SIGKILL)
            found.append(until_another_serves(port, victim))
        return found


def measure_idle(
    keys: Path, run: Callable[[Fleet], contextlib.AbstractContextManager[psutil.Process]]
) -> float:
    """Per cent of one processor that the supervising processes use over ten idle servers."""
    script = PROJECT / "servers" / "time_client.py"
    with prepared(keys, {f"s{n}": script for n in range(10)}) as fleet, run(fleet) as launcher:
        until(lambda: all(served_by(entry["port"]) for entry in fleet.servers.values()))
        time.sleep(5)
        watching = [launcher, *(p for p in launcher.children(recursive=True) if supervises(p))]
        before = [sum(p.cpu_times()[:2]) for p in watching]
        time.sleep(IDLE_SECONDS)
        after = [sum(p.cpu_times()[:2]) for p in watching]
        return 100 * (sum(after) - sum(before)) / IDLE_SECONDS


def supervises(process: psutil.Process) -> bool:
    """Whether it is part of our supervisor, and neither a server nor the gateway."""
    line = " ".join(process.cmdline())
    return "mcpcp.supervisor" in line or "zygote" in line


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=3, help="how often each is measured")
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory(prefix="mcpcp-keys-") as folder:
        keys = make_keys(Path(folder))
        starts: dict[str, list[float]] = {"ours": [], "supervisord": []}
        for _ in range(times):  # in turn, so that the machine's moods hit both
            starts["ours"].append(measure_start(keys, ours))
            starts["supervisord"].append(measure_start(keys, supervisord))
        show("default fleet ready, s", starts)
        show(
            "killed server serves again, s",
            {
                "ours": measure_restart(keys, ours, times),
                "supervisord": measure_restart(keys, supervisord, times),
            },
        )
        show(
            "idle supervisor of 10 servers, % CPU",
            {"ours": [measure_idle(keys, ours)], "supervisord": [measure_idle(keys, supervisord)]},
        )


def show(title: str, figures: dict[str, list[float]]) -> None:
    """One line: both medians and their ratio."""
    mine, theirs = (statistics.median(figures[name]) for name in ("ours", "supervisord"))
    ratio = f"{mine / theirs:.2f}" if theirs else "-"
    print(f"{title:<38} ours {mine:6.3f}   supervisord {theirs:6.3f}   ratio {ratio}")


if __name__ == "__main__":
    main()
