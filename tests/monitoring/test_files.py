"""What deploy/monitoring holds is what the generators make, and fits together."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path, PurePosixPath

import pytest

from mcpcp import prometheus
from mcpcp.config import load, loads
from tests.fleet import PROJECT, Fleet

MONITORING = PROJECT / "deploy" / "monitoring"
DASHBOARDS = MONITORING / "grafana" / "dashboards"


def test_the_dashboards_are_what_the_generator_makes() -> None:
    made = runpy.run_path(str(PROJECT / "scripts" / "generate-dashboards"))["texts"]()
    stored = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
    assert stored == made, "run scripts/generate-dashboards"


def test_the_committed_config_is_that_of_the_projects_fleet() -> None:
    config = load(PROJECT / "mcpcp.json", {})
    made = prometheus.render(
        prometheus.jobs(config, "127.0.0.1"),
        PurePosixPath("../../data/scrape.token"),
        PurePosixPath("alerts.yml"),
    )
    assert (MONITORING / "prometheus.yml").read_text() == made, "run mcpcp monitoring config"


def test_every_panel_has_its_place() -> None:
    for path in DASHBOARDS.glob("*.json"):
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, (path.name, panel["title"])
            assert at["x"] + at["w"] <= 24
            taken |= cells


def test_the_dashboards_ask_the_provisioned_source() -> None:
    provisioned = (MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text()
    (uid,) = re.findall(r"uid: (\S+)", provisioned)
    for path in DASHBOARDS.glob("*.json"):
        assert set(re.findall(r'"uid": "(mcpcp-prometheus\w*)"', path.read_text())) == {uid}


def test_every_alert_is_documented_and_says_what_to_do() -> None:
    rules = (MONITORING / "alerts.yml").read_text()
    names = re.findall(r"- alert: (\w+)", rules)
    document = (PROJECT / "docs" / "monitoring.md").read_text("utf-8")
    assert names
    assert not [name for name in names if f"| `{name}` |" not in document]
    assert len(re.findall(r"^          next: ", rules, re.MULTILINE)) == len(names)


def test_only_programs_of_ours_get_the_scrape_token() -> None:
    text = json.dumps(
        {
            "mcpServers": {
                "own": {"command": "python", "args": ["servers/battle.py"], "port": 9004},
                "quiet": {
                    "command": "python",
                    "args": ["servers/battle.py"],
                    "port": 9014,
                    "metrics": None,
                },
                "part": {
                    "type": "service",
                    "command": "python",
                    "args": ["-m", "mcpcp", "chat"],
                    "port": 9013,
                },
                "theirs": {"command": "other", "port": 9005, "metrics": "/m"},
                "without": {"command": "other", "port": 9006},
                "far": {"url": "https://tools.example/mcp", "metrics": "/metrics"},
                "piped": {"command": "python", "args": ["servers/battle.py"]},
            },
            "gateway": {"host": "0.0.0.0"},
            "monitoring": {"port": 9002},
        }
    )
    made = prometheus.jobs(loads(text, PROJECT / "mcpcp.json", {}), "host.example")
    asked = {(job.name, job.trusted): {t.address: t.labels for t in job.targets} for job in made}
    assert asked == {
        ("mcpcp-gateway", True): {"host.example:9003": {}},
        ("mcpcp-supervisor", True): {"host.example:9002": {}},
        ("mcpcp-server", True): {
            "host.example:9004": {"server": "own"},
            "host.example:9013": {"server": "part"},
        },
        ("mcpcp-other", False): {
            "host.example:9005": {"server": "theirs", "__metrics_path__": "/m"},
            "tools.example:443": {"server": "far", "__scheme__": "https"},
        },
    }
    rendered = prometheus.render(made, PurePosixPath("token"), PurePosixPath("rules.yml"))
    assert rendered.count("credentials_file") == 3
    assert "credentials_file" not in rendered.partition("mcpcp-other")[2]


def test_the_command_prints_a_config_with_paths_that_hold_anywhere(fleet: Fleet) -> None:
    fleet.add("one")
    fleet.write()
    done = fleet.mcpcp("monitoring", "config")
    assert done.returncode == 0
    (token_file,) = set(re.findall(r'credentials_file: "(.+)"', done.stdout))
    assert Path(token_file).read_text().strip()
    (rules,) = re.findall(r'  - "(.+)"', done.stdout)
    assert Path(rules) == MONITORING / "alerts.yml"
    assert "monitoring.port" in done.stderr


@pytest.mark.parametrize("name", ["datasources/prometheus.yml", "dashboards/mcpcp.yml"])
def test_grafana_is_told_where_things_are_by_variables(name: str) -> None:
    text = (MONITORING / "grafana" / "provisioning" / name).read_text()
    assert re.search(r"\$\{(PROMETHEUS_URL|MCPCP_DASHBOARDS)\}", text)
