"""`mcpcp keys`, `token` and `audit`, as a person or a script uses them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mcpcp import keyring
from mcpcp.audit import AuditLog, CallRecord
from mcpcp.cli import cli
from mcpcp.errors import McpcpError
from mcpcp.policy import Allowlist
from mcpcp.state import FileRevocations
from mcpcp.tokens import TokenVerifier
from tests.cli.project import CONFIG, Project
from tests.fleet import PATIENCE


@pytest.fixture
def mine(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.make_keys()
    return project


def verifier(project: Project) -> TokenVerifier:
    return TokenVerifier(project.keys, FileRevocations(project.root / "data" / "revocations"))


def inspected(project: Project, token: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        project.run("token", "inspect", "--json", stdin=token).stdout
    )
    return found


def test_keys_are_generated_once(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert project.ok("keys", "generate").startswith("made ")
    assert "has its keys already" in project.ok("keys", "generate")
    assert keyring.list_keys(project.keys)[0].bits == 3072


def test_keys_are_rotated_listed_and_retired(mine: Project) -> None:
    (old,) = (key.kid for key in keyring.list_keys(mine.keys))
    mine.ok("keys", "rotate")
    listed = json.loads(mine.ok("keys", "list", "--json"))
    assert [k["active"] for k in listed] == [True, False]
    assert mine.ok("keys", "list").splitlines()[1] == f"{old}  RSA 2048  checks only"
    mine.ok("keys", "retire", old)
    assert len(json.loads(mine.ok("keys", "list", "--json"))) == 1


def test_a_token_is_the_last_line_of_stdout_and_hints_are_not_in_it(mine: Project) -> None:
    result = mine.run("token", "issue", "me", "--ttl", "1h")
    lines = result.stdout.splitlines()
    assert len(lines) == 1
    agent = verifier(mine).verify(lines[-1])
    assert (agent.name, agent.allow) == ("me", Allowlist.of({"mcp1": ["*"]}))
    assert "me may use mcp1: * until" in result.stderr


def test_a_token_can_be_narrowed_or_made_for_a_stranger(mine: Project) -> None:
    token = mine.ok("token", "issue", "ci", "--allow", "mcp1:echo", "--allow", "mcp1:x_*").strip()
    assert verifier(mine).verify(token).allow == Allowlist.of({"mcp1": ["echo", "x_*"]})


def test_a_token_is_held_to_the_configs_limits_and_to_those_that_are_given(
    mine: Project,
) -> None:
    bounds = {"in_flight": 3, "calls_per_minute": 9}
    mine.write({**CONFIG, "agents": {"me": {"allow": {"mcp1": ["*"]}, "limits": bounds}}})
    assert inspected(mine, mine.ok("token", "issue", "me"))["claims"]["limits"] == bounds
    schema = '{"properties": {"path": {"pattern": "^/srv/.=*"}}}'
    given = ("--per-minute", "30", "--arguments", f"mcp1:read_*={schema}")
    result = mine.run("token", "issue", "me", *given)
    assert inspected(mine, result.stdout)["claims"]["limits"] == {
        "in_flight": 3,
        "calls_per_minute": 30,
        "arguments": {"mcp1:read_*": json.loads(schema)},
    }
    assert "held to " in result.stderr
    other = mine.ok("token", "issue", "ci", "--allow", "mcp1:*", "--in-flight", "1")
    assert verifier(mine).verify(other.strip()).limits.in_flight == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("me", "--per-minute", "0"), "calls_per_minute: must be a whole number"),
        (("me", "--in-flight", "x"), "is not a valid integer"),
        (("me", "--arguments", "mcp1:echo"), "is not SERVER:TOOL=SCHEMA"),
        (("me", "--arguments", "echo={}"), "'echo' is not SERVER:TOOL"),
        (("me", "--arguments", "a:b={}", "--arguments", "a:b={}"), "each pattern once"),
        (("me", "--arguments", "a:b={"), "the schema of a:b is not JSON"),
        (("me", "--arguments", 'a:b={"format": "uri"}'), "would not be enforced"),
        (("mee",), 'no agent "mee"; did you mean "me"?'),
        (("me", "--ttl", "soon"), "is no duration"),
        (("me", "--ttl", "900d"), "366 days at most"),
        (("me", "--allow", "mcp1"), "is not SERVER:TOOL"),
    ],
)
def test_mistakes_in_issuing_are_explained(
    mine: Project, words: tuple[str, ...], expected: str
) -> None:
    result = mine.run("token", "issue", *words)
    assert result.exit_code != 0
    assert expected in f"{result.stderr}{result.exception}"
    assert result.stdout == ""


def test_inspecting_shows_claims_and_whether_it_is_accepted(mine: Project, tmp_path: Path) -> None:
    token = mine.ok("token", "issue", "me").strip()
    found = inspected(mine, token)
    assert (found["accepted"], found["claims"]["sub"]) == (True, "me")
    (tmp_path / "t").write_text(token + "\n")
    text = mine.ok("token", "inspect", "--token-file", str(tmp_path / "t"))
    assert text.splitlines()[-1] == "accepted"
    assert not inspected(mine, token[:-9] + "AAAAAAAAA")["accepted"]
    assert inspected(mine, "x") == {"accepted": False, "reason": "malformed", "claims": None}


@pytest.mark.parametrize("by_id", [True, False])
def test_a_revoked_token_is_refused(mine: Project, by_id: bool) -> None:
    token = mine.ok("token", "issue", "me").strip()
    token_id = inspected(mine, token)["claims"]["jti"]
    assert mine.ok("token", "revoke", token_id if by_id else token) == f"revoked {token_id}\n"
    assert inspected(mine, token)["reason"] == "revoked"
    assert mine.run("token", "inspect", stdin=token).exit_code == 1


def test_claims_can_not_drive_a_terminal(mine: Project) -> None:
    token = mine.ok("token", "issue", "me", "--allow", "a:\x1b[2J").strip()
    assert "\x1b" not in mine.run("token", "inspect", stdin=token).stdout


def _record(mine: Project) -> Path:
    path = mine.root / "data" / "audit" / "audit.jsonl"
    log = AuditLog(path, mine.keys)
    for tool in ("echo", "evil\x1b[2J"):
        log.record(CallRecord("me", "id", "s", "mcp1", tool, "tools/call", "denied", "policy"))
    log.close()
    return path


def test_the_audit_is_verified_and_shown(mine: Project) -> None:
    path = _record(mine)
    assert mine.ok("audit", "verify").startswith(f"{path}: 3 records, whole; signed by key ")
    lines = mine.ok("audit", "tail", "-n", "2").splitlines()
    assert lines[0].endswith(" me tools/call mcp1:echo denied (policy) 0.0 ms")
    assert "\x1b" not in lines[1]
    assert len(lines) == 2
    assert json.loads(mine.ok("audit", "tail", "-n", "1", "--json"))["n"] == 3


def test_a_broken_audit_fails(mine: Project) -> None:
    path = _record(mine)
    path.write_text(path.read_text().replace('"me"', '"you"'))
    result = mine.run("audit", "verify")
    assert (result.exit_code, result.stdout[:7]) == (1, "BROKEN ")
    (verdict,) = json.loads(mine.run("audit", "verify", "--json").stdout)
    assert (verdict["ok"], verdict["records"]) == (False, 1)


def test_no_audit_is_no_good_audit(mine: Project) -> None:
    assert isinstance(mine.run("audit", "verify").exception, McpcpError)


@pytest.mark.parametrize(
    "words",
    [
        ("keys",), ("keys", "generate"), ("keys", "rotate"), ("keys", "retire"), ("keys", "list"),
        ("token",), ("token", "issue"), ("token", "inspect"), ("token", "revoke"),
        ("tools",), ("tools", "diff"), ("tools", "approve"),
        ("audit",), ("audit", "verify"), ("audit", "tail"), ("audit", "search"),
        ("monitoring",), ("monitoring", "config"),
        ("import",), ("install",), ("install", "claude-desktop"), ("doctor",),
    ],
)  # fmt: skip
def test_every_help_teaches_with_an_example(words: tuple[str, ...]) -> None:
    text = CliRunner().invoke(cli, [*words, "--help"]).stdout
    assert f"  mcpcp {' '.join(words)}" in text


def test_as_a_program_errors_are_one_line_and_an_exit_code(mine: Project) -> None:
    command = [sys.executable, "-m", "mcpcp", "token", "issue", "you", "--config"]
    done = subprocess.run(
        [*command, str(mine.config)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"mcpcp: {mine.config}: agents: no agent")
