"""A real Prometheus on a real fleet under load: what dashboards and alerts ask for is there."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chat.harness import ask
from tests.chat.scripted import ScriptedLlm, call, say, scripted_llm
from tests.fleet import PATIENCE, PROJECT, CallFailed, Fleet, make_keys, open_fleet, post
from tests.gateway.harness import RAW
from tests.monitoring.prometheus import Prometheus, watching
from tests.servers.harness import PROBE
from tests.test_readme import move_database

DASHBOARDS = PROJECT / "deploy" / "monitoring" / "grafana" / "dashboards"
DOCUMENT = (PROJECT / "docs" / "monitoring.md").read_text("utf-8")
SERVER = "mcp1"
VARIABLES = {"$__rate_interval": "30s", "$server": SERVER}


def expressions() -> list[tuple[str, str, str]]:
    """Dashboard, panel and expression of every query of every dashboard."""
    return [
        (path.stem, panel["title"], target["expr"])
        for path in sorted(DASHBOARDS.glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


# Every panel


@pytest.fixture
def model() -> Iterator[ScriptedLlm]:
    with scripted_llm() as made:
        yield made


@pytest.fixture
def busy(tmp_path: Path, model: ScriptedLlm) -> Iterator[Fleet]:
    """The project's own servers on free ports, used in every way until the test is over."""
    config = json.loads((PROJECT / "mcpcp.json").read_text())
    with open_fleet(tmp_path, make_keys(tmp_path / "keys")) as fleet:
        for name, entry in config["mcpServers"].items():
            fleet.servers[name] = {**entry, "cwd": str(PROJECT), "port": fleet.port()}
        move_database(fleet)
        fleet.servers["mcp1"]["env"] = {"BATTLE_LOG_DIR": str(fleet.folder / "battles")}
        fleet.servers["chat"]["env"] = {"LLM_BASE_URL": model.url, "LLM_MODEL_NAME": "scripted"}
        fleet.agents |= config["agents"]
        fleet.settings["monitoring"] = {"port": fleet.port()}
        fleet.launch()
        fleet.until(lambda: fleet.state("chat") == "RUNNING", "the chat service runs")
        over = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            using = threads.submit(use, fleet, model, over)
            try:
                yield fleet
            finally:
                over.set()
                using.result()


def use(fleet: Fleet, model: ScriptedLlm, over: threading.Event) -> None:
    """Calls that work, fail and are refused, orders, sessions and talk, again and again."""
    session = sign_up(fleet)
    while not over.wait(0.2):
        fleet.call("time_get_current_time")
        fleet.call("mcp1_echo", message="hello")
        fleet.call("mcp3_run_python_code", code="print(1)")
        failing(fleet, "mcp1_report_on_battle_end")
        failing(fleet, "no_such_tool")
        failing(fleet, "mcp1_echo", token="no.good.token")
        failing(fleet, "shop_auth_login_user", email="ada@example.com", password="wrong wrong")
        order(fleet, session)
        open_and_close_session(fleet)
        talk(fleet, model)


def sign_up(fleet: Fleet) -> str:
    """A buyer with money, and a seller with something to sell; the buyer's session."""
    sessions = {}
    for role in ("seller", "buyer"):
        who: dict[str, Any] = {"email": f"{role}@example.com", "password": "correct horse"}
        fleet.call("shop_auth_register_user", name="Ada", role=role, **who)
        sessions[role] = fleet.call("shop_auth_login_user", **who)["session"]
    offer: dict[str, Any] = {
        "name": "tea",
        "price": "1",
        "quantity": 100_000,
        "description": "green",
    }
    fleet.call("shop_seller_add_product", session=sessions["seller"], **offer)
    fleet.call("shop_buyer_add_balance", session=sessions["buyer"], amount="9000")
    return str(sessions["buyer"])


def order(fleet: Fleet, session: str) -> None:
    (product, *_) = fleet.call("shop_buyer_view_all_products")["products"]
    line = {"product_id": product["product_id"], "quantity": 1}
    fleet.call("shop_buyer_add_to_cart", session=session, **line)
    fleet.call("shop_buyer_place_order", session=session)


def failing(fleet: Fleet, tool: str, /, token: str | None = None, **arguments: Any) -> None:
    """A call that is to end in an error."""
    url = f"http://127.0.0.1:{fleet.gateway['port']}/mcp"
    with pytest.raises(CallFailed):
        post(url, token or fleet.token(), tool, arguments, PATIENCE)


def talk(fleet: Fleet, model: ScriptedLlm) -> None:
    """A conversation in which the model calls a tool."""
    model.play(call(("time_get_current_time", {})), say("Late."))
    url = f"http://127.0.0.1:{fleet.servers['chat']['port']}"
    headers = {"Authorization": f"Bearer {fleet.token()}"}
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, verify=False) as client:  # noqa: S501
        ask(client)


def open_and_close_session(fleet: Fleet) -> None:
    """A legacy session, from its handshake to its end."""
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}}
    hello["clientInfo"] = {"name": "tests", "version": "1"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    headers = {"Authorization": f"Bearer {fleet.token()}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{fleet.gateway['port']}/mcp"
    opening = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(opening, timeout=PATIENCE) as answer:  # noqa: S310
        headers["Mcp-Session-Id"] = answer.headers["mcp-session-id"]
    closing = urllib.request.Request(url, headers=headers, method="DELETE")
    urllib.request.urlopen(closing, timeout=PATIENCE).close()  # noqa: S310


def test_every_panel_of_every_dashboard_has_data(busy: Fleet) -> None:
    with watching(busy) as prometheus:
        missing: list[tuple[str, str, str]] = expressions()
        assert len({dashboard for dashboard, _, _ in missing}) == 6

        def none_missing() -> bool:
            missing[:] = [m for m in missing if not prometheus.query(filled(m[2]))]
            return not missing

        prometheus.until(none_missing, lambda: missing)
        assert_targets(prometheus, busy)
        assert not [name for name in families(prometheus) if f"`{name}`" not in DOCUMENT]


def families(prometheus: Prometheus) -> set[str]:
    """Every metric of ours that was scraped, as the document calls it."""
    names = {re.sub(r"_(bucket|sum|count)$", "", n) for n in values(prometheus, "__name__")}
    return {n for n in names if not n.startswith(("up", "scrape_", "process_", "ALERTS"))}


def assert_targets(prometheus: Prometheus, fleet: Fleet) -> None:
    """Everything that has metrics is scraped, and nothing of it is a client's word."""
    servers = {("mcpcp-server", name) for name in fleet.servers if name != "shop_db"}
    wanted = servers | {("mcpcp-gateway", None), ("mcpcp-supervisor", None)}
    assert targets(prometheus, "up") == wanted
    # Each at some time: on a busy machine one or the other misses its second.
    missing = set(wanted)

    def all_seen() -> bool:
        missing.difference_update(targets(prometheus, "up == 1"))
        return not missing

    prometheus.until(all_seen, lambda: missing)
    labels = {value for name in prometheus.ask("labels") for value in values(prometheus, name)}
    assert "no_such_tool" not in labels
    assert not [label for label in labels if "@example.com" in label]


def targets(prometheus: Prometheus, expression: str) -> set[tuple[str, str | None]]:
    """Job and server of what the expression finds."""
    found = (sample["metric"] for sample in prometheus.query(expression))
    return {(metric["job"], metric.get("server")) for metric in found}


def values(prometheus: Prometheus, label: str) -> list[str]:
    found: list[str] = prometheus.ask(f"label/{label}/values")
    return found


# Every alert


@pytest.fixture
def frail(fleet: Fleet) -> Fleet:
    """A healthy fleet, to which everything can be done that an alert is for."""
    fleet.settings["monitoring"] = {"port": fleet.port()}
    quick = {"backoff": "10ms", "max_backoff": "50ms", "burst": 3, "slow_retry": "1s"}
    fleet.add("victim", restart=quick)
    fleet.add("needy", PROBE)
    fleet.add("slow")
    fleet.servers["raw"] = {"command": "python", "args": [str(RAW), "--name", "raw"]}
    fleet.launch()
    return fleet


def degrade(fleet: Fleet, _: Prometheus) -> None:
    fleet.servers["needy"]["env"] = {"PROBE_DEGRADED": "no engine"}
    fleet.write()


def crash(fleet: Fleet, _: Prometheus) -> None:
    fleet.servers["victim"]["env"] = {"CRASH": "1"}
    fleet.write()


def break_config(fleet: Fleet, _: Prometheus) -> None:
    fleet.put('{"mcpServers": 5}')


def be_slow(fleet: Fleet, _: Prometheus) -> None:
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: fleet.call("slow_nap", seconds=5.5), range(3)))


def fail_often(fleet: Fleet, prometheus: Prometheus) -> None:
    """From the moment at which Prometheus knows of the tool: what begins high is no rise to it."""
    failing(fleet, "raw_fail")
    prometheus.until(lambda: prometheus.query('mcpcp_calls_total{tool="fail"}'), lambda: "scraped")
    for _ in range(60):
        failing(fleet, "raw_fail")


def knock(fleet: Fleet, _: Prometheus) -> None:
    for _again in range(120):
        failing(fleet, "raw_echo", token="no.good.token")


def pry(fleet: Fleet, _: Prometheus) -> None:
    for _again in range(400):
        failing(fleet, "no_such_tool")


def lose_audit(fleet: Fleet, _: Prometheus) -> None:
    """The folder is gone, and a file has its place."""
    folder = fleet.folder / "data" / "audit"
    folder.rename(folder.with_name("gone"))
    folder.write_text("")
    fleet.until(lambda: not succeeds(fleet), "calls are refused")


def succeeds(fleet: Fleet) -> bool:
    with contextlib.suppress(CallFailed):
        fleet.call("raw_echo", message="x")
        return True
    return False


def move_away(fleet: Fleet, _: Prometheus) -> None:
    """The supervisor's metrics are somewhere else now."""
    fleet.settings["monitoring"] = {"port": fleet.port()}
    fleet.write()


FAULTS: tuple[tuple[Callable[[Fleet, Prometheus], None], set[str]], ...] = (
    (degrade, {"McpcpServerDegraded"}),
    (be_slow, {"McpcpSlowCalls"}),
    (fail_often, {"McpcpErrorRate"}),
    (knock, {"McpcpTokenDenials"}),
    (pry, {"McpcpForbiddenCalls"}),
    (crash, {"McpcpCrashLoop", "McpcpServerDown", "McpcpServerDisconnected"}),
    (break_config, {"McpcpConfigRefused"}),
    (lose_audit, {"McpcpAuditFailing"}),
    (move_away, {"McpcpTargetDown"}),
)
"""What is done to the fleet, in this order, and the alerts that tell of it."""

ELSEWHERE = ("McpcpSandbox", "McpcpChat")
"""Alerts of what this fleet has not: test_rules plays their series to promtool."""


def test_every_alert_is_silent_until_its_fault_is_made(frail: Fleet) -> None:
    with watching(frail) as prometheus:
        healthy = "count(up == 1) == 2 and count(mcpcp_backend_up == 1) == 4"
        prometheus.until(lambda: prometheus.query(healthy), lambda: prometheus.query("up"))
        known = {name for name in prometheus.alerts() if not name.startswith(ELSEWHERE)}
        assert known == set().union(*(alerts for _, alerts in FAULTS))
        for make_fault, alerts in FAULTS:
            # A scrape that a busy machine did not answer in its second passes.
            prometheus.until(lambda: not active(prometheus) & alerts, prometheus.alerts)  # noqa: B023
            make_fault(frail, prometheus)
            missing = set(alerts)

            def all_seen() -> bool:
                missing.difference_update(active(prometheus))  # noqa: B023
                return not missing  # noqa: B023

            prometheus.until(all_seen, lambda: (missing, prometheus.alerts()))  # noqa: B023


def active(prometheus: Prometheus) -> set[str]:
    """The alerts that are pending or firing."""
    return {name for name, state in prometheus.alerts().items() if state != "inactive"}
