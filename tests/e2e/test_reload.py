"""The config file changes while the fleet runs: only what changed is touched."""

from __future__ import annotations

import threading

from tests.fleet import CallFailed, Fleet


def error(fleet: Fleet) -> str | None:
    snapshot = fleet.status()
    return snapshot.config_error if snapshot else None


def test_only_the_changed_server_is_restarted_and_a_new_one_starts(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.add("mcp2")
    fleet.launch()
    kept, changed = fleet.pid("mcp1"), fleet.pid("mcp2")
    gateway = fleet.pid("gateway")
    fleet.servers["mcp2"]["env"] = {"COLOUR": "blue"}
    fleet.add("mcp3")
    fleet.write()
    fleet.wait_other("mcp2", changed)
    fleet.until(lambda: fleet.pid("mcp3"), "mcp3 runs")
    fleet.until(lambda: offers(fleet, "mcp3"), "its tools are there")
    assert fleet.pid("mcp1") == kept
    assert fleet.pid("gateway") == gateway


def test_a_server_that_is_taken_out_ends_and_its_tools_go(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.add("mcp2")
    fleet.launch()
    removed = fleet.servers.pop("mcp2")
    fleet.write()
    fleet.until(lambda: not offers(fleet, "mcp2"), "its tools are gone")
    fleet.until(lambda: fleet.state("mcp2") == "", "it is gone")
    assert fleet.call("mcp1_echo", message="hi") == "hi"
    fleet.servers["mcp2"] = removed  # its port is looked at in the end


def offers(fleet: Fleet, server: str) -> bool:
    try:
        return bool(fleet.call(f"{server}_echo", message="hi") == "hi")
    except CallFailed:
        return False


def test_a_bad_file_keeps_the_last_good_state_and_says_why(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.launch()
    before = fleet.call("mcp1_pid")
    good = fleet.config.read_text()
    fleet.put(good.replace('"depends_on"', "").replace('"port"', '"prot"', 1))
    told = fleet.until(lambda: error(fleet), "the reason is told")
    assert "prot" in told
    assert fleet.call("mcp1_pid") == before, "an open session and a token of before still work"
    fleet.put('{"mcpServers": {')
    fleet.until(lambda: "prot" not in (error(fleet) or "prot"), "the new reason is told")
    fleet.put(good)
    fleet.until(lambda: error(fleet) is None, "the good file is in force")
    assert fleet.call("mcp1_pid") == before


def test_edits_under_load_lose_no_call_of_the_servers_that_stay(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.add("mcp2")
    fleet.launch()
    before = fleet.pid("mcp1")
    done = threading.Event()
    answers: list[str] = []
    failures: list[str] = []

    def work(worker: int) -> None:
        number = 0
        while not done.is_set():
            number += 1
            try:
                answers.append(fleet.call("mcp1_echo", message=f"{worker}-{number}"))
            except CallFailed as failed:
                failures.append(str(failed))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for colour in ("red", "green", "blue"):
        old = fleet.pid("mcp2")
        fleet.servers["mcp2"]["env"] = {"COLOUR": colour}
        fleet.write()
        fleet.wait_other("mcp2", old)
        enough = len(answers) + 10
        fleet.until(lambda: failures or len(answers) > enough, "calls go on")  # noqa: B023
    done.set()
    for worker in workers:
        worker.join()
    assert not failures
    assert fleet.pid("mcp1") == before


def test_a_tool_that_the_config_denies_is_gone_for_open_tokens_without_any_restart(
    fleet: Fleet,
) -> None:
    fleet.add("mcp1")
    fleet.add("mcp2")
    fleet.launch()
    pids = fleet.pid("mcp1"), fleet.pid("mcp2"), fleet.pid("gateway")
    assert offers(fleet, "mcp2")
    fleet.servers["mcp2"]["tools"] = {"deny": ["ech*"]}
    fleet.write()
    fleet.until(lambda: not offers(fleet, "mcp2"), "it is not offered any more")
    assert offers(fleet, "mcp1")
    fleet.until(lambda: fleet.call("mcp2_pid") == pids[1], "the server is the same")
    assert (fleet.pid("mcp1"), fleet.pid("mcp2"), fleet.pid("gateway")) == pids
