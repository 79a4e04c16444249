"""The alerts of sandbox and chat: what Prometheus' own test program makes of them.

The series are played to the rules, minute by minute; no clock has a say in it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import generate_latest

from mcpcp.chat.metrics import Metrics
from servers.plumbing.metrics import REGISTRY
from servers.sandboxing import metrics as sandbox_metrics
from servers.sandboxing.outcome import Status
from tests.engine import absent
from tests.fleet import PROJECT

RULES = PROJECT / "deploy" / "monitoring" / "alerts.yml"
RUNS, MODEL = "sandbox_calls_total", "chat_llm_duration_seconds_count"
REQUESTS, TOOLS = "chat_requests_total", "chat_tool_calls_total"
BUCKET = "chat_llm_duration_seconds_bucket"
NEVER = ""
STILL = "0+0x60"


def runs(**rates: str) -> dict[str, str]:
    return {f'{RUNS}{{server="s",status="{status}"}}': rate for status, rate in rates.items()}


def outcomes(name: str, **rates: str) -> dict[str, str]:
    return {f'{name}{{outcome="{outcome}"}}': rate for outcome, rate in rates.items()}


def answers(upto_60: str, upto_80: str) -> dict[str, str]:
    """So many answers of the model within those seconds, counted up."""
    bounds = {"40": "0+0x60", "80": upto_80, "+Inf": upto_80} if upto_60 == STILL else {}
    bounds = bounds or {"40": upto_60, "80": upto_80, "+Inf": upto_80}
    return {f'{BUCKET}{{outcome="ok",le="{bound}"}}': rate for bound, rate in bounds.items()}


POOL = 'sandbox_pool_ready{server="s"}'

# Series by name (start + step a minute x minutes), and the minute at which the alert must fire,
# the one before which it must not.
CASES: tuple[tuple[str, dict[str, str], str, str], ...] = (
    ("McpcpSandboxEmpty", {POOL: "2 2 0x30"}, "7m", "6m"),
    ("McpcpSandboxEmpty", {POOL: "2 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1x20"}, NEVER, "20m"),
    ("McpcpSandboxRefuses", runs(ok="0+10x30", refused="0+2x30"), "4m", "1m"),
    ("McpcpSandboxRefuses", runs(ok="0+20x30", refused="0+1x30"), NEVER, "30m"),
    ("McpcpSandboxRefuses", runs(ok=STILL, refused=STILL), NEVER, "30m"),
    ("McpcpSandboxLimits", runs(ok="0+4x30", timeout="0+3x30", killed="0+2x30"), "12m", "4m"),
    ("McpcpSandboxLimits", runs(ok="0+6x30", timeout="0+3x30", killed="0+2x30"), NEVER, "30m"),
    ("McpcpSandboxLimits", runs(ok=STILL, memory_limit="0+1x30"), NEVER, "30m"),
    ("McpcpChatModelAway", outcomes(MODEL, ok="0+1x30", unreachable="0+3x30"), "4m", "1m"),
    ("McpcpChatModelAway", outcomes(MODEL, ok=STILL, stalled="0+1x30"), "4m", "1m"),
    ("McpcpChatModelAway", outcomes(MODEL, ok="0+3x30", broken="0+1x30"), NEVER, "30m"),
    ("McpcpChatModelAway", outcomes(MODEL, ok=STILL, refused=STILL), NEVER, "30m"),
    ("McpcpChatRateLimited", outcomes(MODEL, ok="0+5x30", rate_limited="0+1x30"), "7m", "4m"),
    ("McpcpChatRateLimited", outcomes(MODEL, ok="0+20x30", rate_limited="0+1x30"), NEVER, "30m"),
    ("McpcpChatSlowModel", answers(STILL, "0+5x40"), "13m", "9m"),
    ("McpcpChatSlowModel", answers("0+19x40", "0+20x40"), NEVER, "40m"),
    ("McpcpChatErrors", outcomes(REQUESTS, ok="0+2x30", gateway_unavailable="0+2x30"), "7m", "4m"),
    ("McpcpChatErrors", outcomes(REQUESTS, ok="0+8x30", timeout="0+2x30"), NEVER, "30m"),
    ("McpcpChatErrors", outcomes(REQUESTS, ok="0+1x30", cancelled="0+9x30"), NEVER, "30m"),
    ("McpcpChatErrors", outcomes(REQUESTS, ok=STILL, timeout="0 1x30"), NEVER, "30m"),
    ("McpcpChatToolErrors", outcomes(TOOLS, ok="0+1x30", error="0+2x30"), "12m", "4m"),
    ("McpcpChatToolErrors", outcomes(TOOLS, ok="0+1x30", mistake="0+2x30"), "12m", "4m"),
    ("McpcpChatToolErrors", outcomes(TOOLS, ok="0+3x30", error="0+2x30"), NEVER, "30m"),
)  # fmt: skip


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        absent("promtool (apt-get install prometheus)")
    return str(found)


def firing(alert: str, at: str, count: int) -> dict[str, Any]:
    """What promtool is to find: so many alerts of that name, with whatever labels."""
    state = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    samples = [{"labels": "{}", "value": count}] if count else []
    return {"expr": f"count({state})", "eval_time": at, "exp_samples": samples}


@pytest.mark.parametrize(
    ("alert", "series", "fires", "silent"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)]
)
def test_an_alert_fires_at_its_fault_and_at_nothing_less(
    tmp_path: Path, alert: str, series: dict[str, str], fires: str, silent: str
) -> None:
    expected = [firing(alert, silent, 0), *([firing(alert, fires, 1)] if fires else [])]
    played = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": played, "promql_expr_test": expected}
    path = tmp_path / "test.yml"  # JSON is YAML
    whole = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    path.write_text(json.dumps(whole))
    done = subprocess.run(
        [promtool(), "test", "rules", str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_of_sandbox_and_chat_is_played() -> None:
    names = set(re.findall(r"- alert: (Mcpcp(?:Sandbox|Chat)\w+)", RULES.read_text()))
    assert names == {alert for alert, _, _, _ in CASES}
    assert names == {alert for alert, _, fires, _ in CASES if fires}
    assert names == {alert for alert, _, fires, _ in CASES if not fires}


def test_the_rules_are_good() -> None:
    done = subprocess.run(
        [promtool(), "check", "rules", str(RULES)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_words_that_rules_look_for_are_those_that_are_counted() -> None:
    assert sandbox_metrics.CANCELLED not in get_args(Status)
    shown = Metrics().render().decode() + generate_latest(REGISTRY).decode()
    chosen = re.findall(
        r'((?:chat|sandbox)_\w+)\{(outcome|status)=~?"([\w|]+)"\}', RULES.read_text()
    )
    assert len(chosen) == 7
    for name, label, words in chosen:
        for word in words.split("|"):
            assert re.search(rf'^{name}\{{[^}}]*{label}="{word}"', shown, re.MULTILINE), (
                name,
                word,
            )
