"""A server of several processes: calls are spread, sessions stay, and one death is one death."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.fleet import CallFailed, Fleet, rpc
from tests.gateway.harness import call, request
from tests.gateway.test_sessions import NEWEST

EVERYTHING = Path(__file__).resolve().parents[1] / "programs" / "everything.py"
NAMES = ("many", "many.2", "many.3")


def add_many(fleet: Fleet, count: int = 3, room: int = 3, **entry: Any) -> int:
    """A server of so many processes, with room for more; its first port."""
    return fleet.add("many", type="http", replicas=count, port=fleet.port(room), **entry)


def pids(fleet: Fleet) -> dict[str, int]:
    """The running processes of the server, by name."""
    snapshot = fleet.status()
    rows = snapshot.fleet.of("many") if snapshot else ()
    return {row.name: row.pid for row in rows if row.state == "RUNNING" and row.pid}


def all_run(fleet: Fleet, count: int) -> dict[str, int]:
    def found() -> dict[str, int]:
        running = pids(fleet)
        return running if len(running) == count else {}

    running: dict[str, int] = fleet.until(found, f"{count} processes run")
    return running


def answered_by(fleet: Fleet, expected: Iterable[int]) -> None:
    """Calls, one after the other, are answered by these, once the gateway has heard of them."""
    fleet.until(
        lambda: {fleet.call("many_pid") for _ in range(6)} == set(expected),
        f"calls are answered by {expected}",
    )


def url(fleet: Fleet) -> str:
    return f"http://127.0.0.1:{fleet.gateway['port']}/mcp"


def test_calls_go_to_all_in_turn_and_each_is_shown(fleet: Fleet) -> None:
    port = add_many(fleet)
    fleet.settings["monitoring"] = {"port": fleet.port()}
    fleet.launch()
    running = all_run(fleet, 3)
    assert tuple(running) == NAMES
    answered_by(fleet, running.values())
    snapshot = fleet.status()
    assert snapshot is not None
    assert [row.port for row in snapshot.fleet.of("many")] == [port, port + 1, port + 2]
    shown = fleet.mcpcp("status").stdout
    assert all(f"{name} " in shown for name in NAMES)
    for name in NAMES:
        assert fleet.mcpcp("logs", name).returncode == 0
    made = fleet.mcpcp("monitoring", "config").stdout
    assert made.count('{server: "many"') == 0, "a foreign program has no metrics"
    token = (fleet.folder / "data" / "scrape.token").read_text().strip()
    metrics = httpx2.get(
        f"http://127.0.0.1:{fleet.settings['monitoring']['port']}/metrics",
        headers={"Authorization": f"Bearer {token}"},
    ).text
    for name in NAMES:
        assert f'mcpcp_process_state{{process="{name}",state="RUNNING"}} 1.0' in metrics


def test_calls_that_wait_leave_the_others_free(fleet: Fleet, tmp_path: Path) -> None:
    add_many(fleet)
    fleet.launch()
    running = all_run(fleet, 3)
    with Napping(fleet, tmp_path) as busy:
        answered_by(fleet, set(running.values()) - {busy.pid})


class Napping:
    """A call that is under way until its process is killed, or the fleet stops."""

    def __init__(self, fleet: Fleet, folder: Path, seconds: float = 3600) -> None:
        self._fleet = fleet
        self._note = folder / f"begun-{time.monotonic_ns()}"
        self._seconds = seconds
        self._thread = threading.Thread(target=self._call)
        self.error = ""

    def _call(self) -> None:
        try:
            self._fleet.call("many_nap", seconds=self._seconds, note=str(self._note))
        except CallFailed as failed:
            self.error = str(failed)

    def __enter__(self) -> Napping:
        self._thread.start()
        text: Callable[[], str] = lambda: self._note.read_text() if self._note.exists() else ""  # noqa: E731
        self._process = psutil.Process(int(self._fleet.until(text, "the call has begun")))
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()

    @property
    def pid(self) -> int:
        """Who works on it."""
        return self._process.pid

    def kill(self) -> None:
        """End that process, if it still is the one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.kill()

    def wait(self) -> str:
        """The error with which it ended."""
        self._thread.join(40)
        assert not self._thread.is_alive()
        return self.error


def test_one_death_costs_the_calls_under_way_there_and_nothing_else(
    fleet: Fleet, tmp_path: Path
) -> None:
    add_many(fleet)
    fleet.launch()
    running = all_run(fleet, 3)
    done = threading.Event()
    failures: list[str] = []
    answered = [0, 0]  # a call a process, with the nap: none of these is where a process dies

    def work(worker: int) -> None:
        while not done.is_set():
            try:
                fleet.call("many_echo", message="x")
            except CallFailed as failed:
                failures.append(str(failed))
            answered[worker] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(answered))]
    for worker in workers:
        worker.start()
    try:
        with Napping(fleet, tmp_path) as first:
            victim = next(name for name, pid in running.items() if pid == first.pid)
            first.kill()
            assert "went away" in first.wait() or "closed the connection" in first.error
        fleet.until(lambda: pids(fleet).get(victim, first.pid) != first.pid, "it is back")
        seen = list(answered)
        fleet.until(lambda: all(n > m for n, m in zip(answered, seen, strict=True)), "more calls")
    finally:
        done.set()
        for worker in workers:
            worker.join()
    assert not failures
    kept = {name: pid for name, pid in running.items() if name != victim}
    assert kept.items() <= pids(fleet).items()
    answered_by(fleet, all_run(fleet, 3).values())


def test_sessions_are_spread_and_stay_where_they_began(fleet: Fleet) -> None:
    add_many(fleet)
    fleet.launch()
    running = all_run(fleet, 3)
    answered_by(fleet, running.values())
    headers = {
        "Authorization": f"Bearer {fleet.token()}",
        "Accept": "application/json, text/event-stream",
    }
    homes = []
    with httpx2.Client(base_url=url(fleet), headers=headers, timeout=40) as http:
        for _ in range(6):
            begun = http.post("", json=request("initialize", NEWEST))
            session = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
            asked = [_asked(http, session, "many_pid") for _ in range(4)]
            assert len(set(asked)) == 1
            homes.append(asked[0])
    assert set(homes) == set(running.values())


def _asked(http: httpx2.Client, session: dict[str, str], tool: str) -> int:
    answer = http.post("", json=request("tools/call", call(tool)), headers=session)
    line = next(line for line in answer.text.splitlines() if '"result"' in line)
    return int(line.partition('"text":"')[2].partition('"')[0])


def test_a_session_whose_process_is_gone_goes_on_in_another(fleet: Fleet) -> None:
    add_many(fleet, 2)
    fleet.launch()
    answered_by(fleet, all_run(fleet, 2).values())
    headers = {
        "Authorization": f"Bearer {fleet.token()}",
        "Accept": "application/json, text/event-stream",
    }
    with httpx2.Client(base_url=url(fleet), headers=headers, timeout=40) as http:
        sessions = []
        for _ in range(2):
            begun = http.post("", json=request("initialize", NEWEST))
            sessions.append({"Mcp-Session-Id": begun.headers["mcp-session-id"]})
        assert len({_asked(http, session, "many_pid") for session in sessions}) == 2
        fleet.servers["many"]["replicas"] = 1
        fleet.write()
        fleet.until(lambda: "many.2" not in _states(fleet), "the second is gone")
        left = all_run(fleet, 1)
        assert {_asked(http, session, "many_pid") for session in sessions} == set(left.values())


def _states(fleet: Fleet) -> dict[str, str]:
    snapshot = fleet.status()
    return {row.name: str(row.state) for row in snapshot.fleet.of("many")} if snapshot else {}


def test_a_reload_starts_and_stops_only_the_difference(fleet: Fleet, tmp_path: Path) -> None:
    add_many(fleet, 1)
    del fleet.servers["many"]["replicas"]
    fleet.launch()
    (first,) = all_run(fleet, 1).values()
    gateway = fleet.pid("gateway")
    with Napping(fleet, tmp_path) as busy:
        assert busy.pid == first
        for count in (3, 2, 1, 2):
            before = pids(fleet)
            fleet.servers["many"]["replicas"] = count
            fleet.write()
            fleet.until(lambda: set(_states(fleet)) == set(NAMES[:count]), "as many as asked")  # noqa: B023
            after = all_run(fleet, count)
            stayed = before.keys() & after.keys()
            assert {n: before[n] for n in stayed} == {n: after[n] for n in stayed}
            others = set(after.values()) - ({first} if count > 1 else set())
            answered_by(fleet, others)
        assert fleet.pid("gateway") == gateway
        assert not busy.error, "the call that was under way all the time still is"


def test_restart_takes_one_after_the_other_or_the_one_that_is_named(fleet: Fleet) -> None:
    add_many(fleet, 2)
    fleet.launch()
    before = all_run(fleet, 2)
    assert fleet.mcpcp("restart", "many.2").returncode == 0
    second = all_run(fleet, 2)
    assert second["many"] == before["many"]
    assert second["many.2"] != before["many.2"]
    assert fleet.mcpcp("restart", "many.1").returncode == 0
    first = all_run(fleet, 2)
    assert first["many.2"] == second["many.2"]
    assert first["many"] != second["many"]
    done = fleet.mcpcp("restart", "many")
    both = all_run(fleet, 2)
    assert done.stdout.strip() == f"restarted many (pid {both['many']}, {both['many.2']})"
    assert not set(both.values()) & set(first.values())
    unknown = fleet.mcpcp("restart", "many.3")
    assert "there is no server 'many.3'" in unknown.stderr


def test_one_that_cannot_start_is_shown_and_the_others_serve(
    fleet: Fleet, stranger: Callable[[int], Any]
) -> None:
    port = add_many(fleet)
    stranger(port + 1)
    fleet.add("after", depends_on=["many"], restart={"burst": 1})
    fleet.servers["many"]["restart"] = {"burst": 1, "slow_retry": "600s"}
    fleet.launch()
    running = all_run(fleet, 2)
    assert set(running) == {"many", "many.3"}
    assert fleet.state("many.2") == "FATAL"
    assert fleet.state("after") == "RUNNING"
    answered_by(fleet, running.values())


def test_a_half_done_call_goes_on_where_it_was_begun(fleet: Fleet) -> None:
    """Its state is sealed with a key that only one process has."""
    add_many(fleet, 2, script=EVERYTHING)
    fleet.launch()
    all_run(fleet, 2)
    tool = "many_test_input_required_result_tampered_state"
    can: dict[str, Any] = {
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}
    }
    for others in range(4):
        params = {"name": tool, "_meta": can}
        asked = rpc(url(fleet), fleet.token(), "tools/call", params, 40)
        answers = {"confirm": {"action": "accept", "content": {"ok": True}}}
        again = {**params, "inputResponses": answers, "requestState": asked["requestState"]}
        for _ in range(others):  # whose turn it is then
            fleet.call("many_test_simple_text")
        told = rpc(url(fleet), fleet.token(), "tools/call", again, 40)
        assert told["content"][0]["text"] == "state-ok"
