"""`mcpcp packages`, and what its files mean to the sandbox server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servers.packages import approvals as servers_side
from servers.packages.judgement import Verdict
from servers.packages.names import requirement
from tests.cli.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def theirs(project: Project) -> servers_side.Approvals:
    """The server's view of the same folder."""
    return servers_side.Approvals(project.root / "data" / "packages")


def ask(project: Project, *packages: str, agent: str = "ann") -> None:
    verdicts = [Verdict("requires_approval", requirement(p), "odd name") for p in packages]
    theirs(project).ask(verdicts, agent)


def test_nothing_waits_at_first(project: Project) -> None:
    assert project.ok("packages", "list") == "nothing waits, and nothing is approved\n"


def test_what_an_agent_asked_for_waits_until_it_is_approved(project: Project) -> None:
    ask(project, "reqeusts", "numpi==1.0")
    ask(project, "reqeusts", agent="bob")
    shown = project.ok("packages", "list")
    assert "waiting   reqeusts  odd name" in shown and "for ann, bob" in shown
    assert project.ok("packages", "approve", "Reqeusts", "numpi==1.0")
    assert theirs(project).approved() == {requirement("reqeusts"), requirement("numpi==1.0")}
    found = json.loads(project.ok("packages", "list", "--json"))
    assert found["waiting"] == []
    assert [a["package"] for a in found["approved"]] == ["numpi==1.0", "reqeusts"]


def test_an_approved_name_covers_its_versions(project: Project) -> None:
    ask(project, "numpi==1.0")
    project.ok("packages", "approve", "numpi")
    assert json.loads(project.ok("packages", "list", "--json"))["waiting"] == []


def test_an_approval_can_be_taken_back(project: Project) -> None:
    project.ok("packages", "approve", "numpi", "other")
    project.ok("packages", "revoke", "NumPi")
    assert theirs(project).approved() == {requirement("other")}
    assert "numpi is not approved" in project.error("packages", "revoke", "numpi")


@pytest.mark.parametrize("name", ["../x", "a b", "numpy>=1", "-x", "numpy==", "git+https://x"])
def test_what_is_no_package_is_an_error(project: Project, name: str) -> None:
    assert "is no package" in str(project.run("packages", "approve", "--", name).exception)
    assert theirs(project).approved() == frozenset()


def test_a_damaged_file_is_an_error_that_says_where(project: Project) -> None:
    folder = project.root / "data" / "packages"
    folder.mkdir(parents=True)
    for text in ("{", "[]", '{"approved": 3}', '{"approved": [3]}'):
        (folder / "approved.json").write_text(text)
        assert "approved.json" in str(project.run("packages", "approve", "x").exception)
        assert theirs(project).approved() == frozenset()


def test_a_terminal_is_not_driven_by_what_agents_ask(project: Project) -> None:
    ask(project, "numpi", agent="\x1b[2Jann")
    assert "\x1b" not in project.ok("packages", "list")


def test_the_list_of_what_waits_is_bounded(project: Project) -> None:
    ask(project, *(f"package{n}" for n in range(300)))
    waiting = json.loads(project.ok("packages", "list", "--json"))["waiting"]
    assert len(waiting) == 200 and waiting[-1]["package"] == "package299"
