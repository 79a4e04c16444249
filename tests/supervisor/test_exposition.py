"""The supervisor's metrics: what they say of a real fleet, and who may read them."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fleet import PATIENCE, Fleet


def ask(port: int, path: str = "/metrics", token: str | None = None) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape_token(fleet: Fleet) -> str:
    return (fleet.folder / "data" / "scrape.token").read_text().strip()


def samples(fleet: Fleet, port: int) -> dict[tuple[str, ...], float]:
    status, text = ask(port, token=scrape_token(fleet))
    assert status == 200
    return {
        (s.name, *s.labels.values()): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_it_tells_of_every_process_and_of_a_restart(fleet: Fleet) -> None:
    port = fleet.port()
    fleet.settings["monitoring"] = {"port": port}
    fleet.add("one")
    fleet.launch()
    fleet.until(lambda: samples(fleet, port)["mcpcp_fleet_ready",] == 1, "ready")
    for process in ("one", "gateway"):
        healthy = ("mcpcp_process_healthy", process)
        fleet.until(lambda: samples(fleet, port)[healthy] == 1, "its probes are answered")  # noqa: B023
        found = samples(fleet, port)
        assert found["mcpcp_process_state", process, "RUNNING"] == 1
        assert found["mcpcp_process_state", process, "FATAL"] == 0
        assert found["mcpcp_process_restarts_total", process] == 0
    assert found["mcpcp_config_refused",] == 0
    fleet.until(lambda: ("mcpcp_process_memory_bytes", "one") in samples(fleet, port), "measured")
    assert fleet.mcpcp("restart", "one").returncode == 0
    assert samples(fleet, port)["mcpcp_process_restarts_total", "one"] == 1
    good = fleet.config.read_text()
    fleet.put("{")
    fleet.until(lambda: samples(fleet, port)["mcpcp_config_refused",] == 1, "the config is bad")
    fleet.put(good)


def test_only_the_scrape_token_reads_it_and_nothing_else_is_there(fleet: Fleet) -> None:
    port = fleet.port()
    fleet.settings["monitoring"] = {"port": port}
    fleet.launch()
    assert ask(port)[0] == 401
    assert "mcpcp monitoring config" in ask(port, token=fleet.token())[1]
    assert ask(port, "/health")[0] == 200
    assert ask(port, "/other", scrape_token(fleet))[0] == 404
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as rude:
        rude.sendall(b"POST /metrics HTTP/1.1\r\n\r\n")
        assert rude.recv(64).startswith(b"HTTP/1.1 405")
    flood = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    with flood, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        while True:
            flood.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 70_000)


def test_a_changed_config_moves_it(fleet: Fleet) -> None:
    first, second = fleet.port(), fleet.port()
    fleet.settings["monitoring"] = {"port": first}
    fleet.launch()
    fleet.settings["monitoring"] = {"port": second}
    fleet.write()
    fleet.until(lambda: fleet.get("/health", second) == 200, "it listens on the new port")
    fleet.until(lambda: fleet.get("/health", first) == 0, "it has left the old one")


def test_a_taken_port_is_named_and_the_fleet_runs_on(fleet: Fleet) -> None:
    port = fleet.port()
    with socket.create_server(("127.0.0.1", port)):
        fleet.settings["monitoring"] = {"port": port}
        fleet.launch()
        fleet.until(lambda: f"127.0.0.1:{port} is used by pid" in fleet.log(), "who has the port")
    fleet.until(lambda: fleet.get("/health", port) == 200, "the port is free again")
