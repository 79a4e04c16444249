"""One request's way through all processes, read back by its id."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.fleet import PATIENCE, Fleet
from tests.gateway.harness import call, modern, modern_headers
from tests.servers.harness import PROBE


def send(fleet: Fleet, tool: str, request_id: str | None = None) -> str:
    """Call a tool; the request's id as the answer's head has it."""
    body = modern("tools/call", call(tool))
    headers = {
        "Authorization": f"Bearer {fleet.token()}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        **modern_headers(body),
        **({} if request_id is None else {"X-Request-Id": request_id}),
    }
    url = f"http://127.0.0.1:{fleet.gateway['port']}/mcp"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        return str(answer.headers["x-request-id"])


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_call_s_lines_of_all_processes_are_found_by_its_id(fleet: Fleet, style: str) -> None:
    fleet.settings["logs"] = {"format": style}
    environment = {"MCPCP_LOG_FORMAT": style}
    fleet.add("probe", PROBE, env=environment)
    fleet.launch()
    others = [send(fleet, "probe_whoami") for _ in range(3)]
    own = send(fleet, "probe_crash", "the-one-that-crashed")
    assert own == "the-one-that-crashed"

    def gathered() -> list[str]:
        return fleet.mcpcp("logs", "--request", own).stdout.splitlines()

    # The audit's record, the gateway's word of it and the server's traceback, in whatever order.
    told = (" call ", '"call"'), (":crash error",), ("a secret in a message",)
    fleet.until(lambda: all(any_has(gathered(), words) for words in told), "all is written")
    lines = gathered()
    sources = {line.partition(" | ")[0].strip() for line in lines}
    assert sources == {"audit", "probe"}
    assert any("a secret in a message" in line for line in lines)  # the traceback, on the server
    assert any(":crash error" in line for line in lines)
    assert not [line for line in lines if any(other in line for other in others)]


def any_has(lines: list[str], words: tuple[str, ...]) -> bool:
    return any(word in line for line in lines for word in words)


def test_every_process_of_ours_writes_the_form_that_the_config_says(fleet: Fleet) -> None:
    fleet.settings["logs"] = {"format": "json", "level": "debug"}
    battle = Path(__file__).resolve().parents[2] / "servers" / "battle.py"
    fleet.add("battle", battle, env={"BATTLE_LOG_DIR": str(fleet.folder / "battles")})
    fleet.launch()
    send(fleet, "battle_echo", "x")
    logs = fleet.folder / "data" / "logs"
    for name in ("supervisor", "gateway", "battle"):
        log = logs / f"{name}.log"
        # A line is there once its end is.
        whole = fleet.until(lambda: log.read_text().rpartition("\n")[0], f"{log} has lines")  # noqa: B023
        levels = {json.loads(line)["level"] for line in whole.splitlines()}
        assert levels <= {"DEBUG", "INFO", "WARNING"}


def test_no_secret_of_the_fleet_is_in_any_log(fleet: Fleet) -> None:
    fleet.settings["logs"] = {"level": "debug"}
    fleet.add("probe", PROBE, env={"MCPCP_LOG_LEVEL": "DEBUG"})
    fleet.launch()
    send(fleet, "probe_whoami")
    scrape = (fleet.folder / "data" / "scrape.token").read_text().strip()
    written = {p: p.read_text(errors="replace") for p in (fleet.folder / "data").rglob("*.log*")}
    assert len(written) >= 3
    for text in (*written.values(), fleet.log()):
        assert fleet.token() not in text
        assert scrape not in text
