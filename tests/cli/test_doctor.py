"""`mcpcp doctor`: what is missing here, for which server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpcp.cli import checks
from mcpcp.config import ServerConfig
from mcpcp.pins import FilePins, PinBook
from servers.sandboxing import pinning
from tests.chat.scripted import scripted_llm
from tests.cli.project import Project
from tests.engine import DockerEngine

Port = Callable[[], int]


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A runtime folder that goes with the test; pytest's own are too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="mr") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture
def mine(tmp_path: Path, free_port: Port) -> Project:
    project = Project(tmp_path)
    configure(project, free_port())
    return project


def configure(project: Project, gateway_port: int, **servers: dict[str, Any]) -> None:
    """A config of these servers, so that its gateway's port is nobody else's."""
    project.write({"mcpServers": servers, "gateway": {"port": gateway_port}})


def findings(project: Project) -> tuple[int, dict[str, dict[str, Any]]]:
    result = project.run("doctor", "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, {f["what"]: f for f in json.loads(result.stdout)}


def test_a_machine_with_everything_is_well(mine: Project) -> None:
    mine.make_keys()
    code, found = findings(mine)
    assert code == 0
    assert {f["status"] for f in found.values()} == {"ok"}


def test_a_missing_program_names_its_servers_and_the_way_out(
    mine: Project, free_port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(mine.root))
    npx = {"command": "npx", "args": ["-y", "x"]}
    configure(mine, free_port(), a=npx, b=npx, c={**npx, "disabled": True})
    code, found = findings(mine)
    assert code == 1
    assert (found["npx"]["status"], found["npx"]["servers"]) == ("missing", ["a", "b"])
    assert "nodejs.org" in found["npx"]["fix"]


def test_a_program_is_looked_for_where_its_server_would(mine: Project, free_port: Port) -> None:
    tool = mine.root / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    on_path = {"command": "tool", "env": {"PATH": str(tool.parent)}}
    configure(mine, free_port(), a=on_path, b={"command": "./bin/tool"})
    assert findings(mine)[0] == 0


def test_a_missing_script_is_named(mine: Project, free_port: Port) -> None:
    configure(mine, free_port(), a={"command": "python", "args": ["gone.py"]})
    code, found = findings(mine)
    assert (code, found["script"]["servers"]) == (1, ["a"])
    assert str(mine.root / "gone.py") in found["script"]["detail"]


def test_a_stranger_on_a_port_is_named_by_pid_and_command(
    mine: Project, free_port: Port, stranger: Callable[[int], socket.socket]
) -> None:
    port = free_port()
    configure(mine, free_port(), a={"command": sys.executable, "port": port})
    stranger(port)
    code, found = findings(mine)
    assert code == 1
    assert found[f"port {port}"]["servers"] == ["a"]
    assert f"pid {os.getpid()}: " in found[f"port {port}"]["detail"]


def test_an_unset_variable_is_found(mine: Project, free_port: Port) -> None:
    configure(mine, free_port(), a={"command": "x", "env": {"T": "${SURELY_UNSET_9}"}})
    code, found = findings(mine)
    assert (code, found["config"]["status"]) == (1, "missing")
    assert "SURELY_UNSET_9 is not set" in found["config"]["detail"]


@pytest.mark.skipif(sys.platform == "win32", reason="unix modes")
def test_a_key_that_others_can_read_is_a_warning(mine: Project) -> None:
    kid = mine.make_keys()
    (mine.keys / f"{kid}.key.pem").chmod(0o644)
    result = json.loads(mine.run("doctor", "--json").stdout)
    assert any(f["fix"].startswith("chmod 600") for f in result)


def test_broken_keys_are_found(mine: Project) -> None:
    mine.make_keys()
    (mine.keys / "jwks.json").write_text("{")
    code, found = findings(mine)
    assert (code, found["keys"]["status"]) == (1, "missing")


def test_no_docker_engine_is_named_for_who_needs_it(
    mine: Project, free_port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{mine.root}/none.sock")
    (mine.root / "docker_commands.py").touch()
    configure(mine, free_port(), d={"command": "python", "args": ["docker_commands.py"]})
    code, found = findings(mine)
    assert (code, found["docker engine"]["servers"]) == (1, ["d"])


def test_tools_that_await_approval_are_named_with_the_way_to_give_it(
    mine: Project, free_port: Port
) -> None:
    mine.make_keys()
    configure(mine, free_port(), there={"url": "http://127.0.0.1:1/mcp"})
    book = PinBook(FilePins(mine.root / "mcpcp.lock"))
    for text in ("before", "after"):
        for server in ("there", "forgotten"):
            tool: dict[str, Any] = {"name": "echo", "description": text, "inputSchema": {}}
            book.review(ServerConfig(server, "http"), (tool,))
    code, found = findings(mine)
    assert code == 0
    assert found["tools"]["status"] == "warning"
    assert found["tools"]["detail"] == "changed, and not approved: there:echo"
    assert "mcpcp tools approve" in found["tools"]["fix"]
    (mine.root / "mcpcp.lock").write_text("{")
    code, found = findings(mine)
    assert (code, found["pins"]["status"]) == (1, "missing")


def test_pins_that_can_t_be_looked_up_are_told_with_the_way_out(
    mine: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.make_keys()
    monkeypatch.setenv("STATE_URL", "redis://127.0.0.1:1/0")
    code, found = findings(mine)
    assert (code, found["pins"]["status"]) == (1, "missing")
    assert "start that Redis, or set another STATE_URL" in found["pins"]["detail"]


def test_people_get_a_table(mine: Project) -> None:
    text = mine.ok("doctor")
    assert str(sys.version_info.major) in text
    assert "runtime folder" in text


def test_a_model_that_does_not_answer_is_a_warning_for_the_chat_service(
    mine: Project, free_port: Port
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    args = ["-m", "mcpcp", "chat", "--port", "{port}"]
    entry = {"type": "service", "command": "python", "args": args, "env": {"LLM_BASE_URL": url}}
    configure(mine, free_port(), chat={**entry, "port": free_port()})
    _, found = findings(mine)
    model = found["language model"]
    assert (model["status"], model["servers"]) == ("warning", ["chat"])
    assert url in model["detail"] and "LLM_MODEL_NAME" in model["fix"]
    assert model["fix"] not in model["detail"]


def test_a_model_that_answers_is_found(mine: Project, free_port: Port) -> None:
    args = ["-m", "mcpcp", "chat", "--port", "{port}"]
    with scripted_llm() as llm:
        env = {"LLM_BASE_URL": llm.url, "LLM_MODEL_NAME": "scripted"}
        entry = {"type": "service", "command": "python", "args": args, "env": env}
        configure(mine, free_port(), chat={**entry, "port": free_port()})
        _, found = findings(mine)
    assert found["language model"]["status"] == "ok"
    assert found["language model"]["detail"] == f"scripted at {llm.url}"


def configure_sandbox(project: Project, port: int, **env: str) -> None:
    (project.root / "python_code.py").touch()
    server = {"command": "python", "args": ["python_code.py"], "env": env}
    configure(project, port, code=server)


@pytest.mark.bwrap
def test_the_sandbox_is_judged_by_its_own_self_test(mine: Project, free_port: Port) -> None:
    configure_sandbox(mine, free_port(), SANDBOX_BACKEND="bubblewrap")
    sandbox = findings(mine)[1]["sandbox"]
    if sys.platform == "linux" and shutil.which("bwrap"):
        assert sandbox["status"] == "ok"
        assert "bubblewrap passed its self-test (namespaces: " in sandbox["detail"]
    else:
        assert sandbox["status"] == "missing"
    assert sandbox["servers"] == ["code"]


def test_where_there_is_no_sandbox_the_way_to_one_is_said(mine: Project, free_port: Port) -> None:
    away = f"unix://{mine.root}/none.sock"
    configure_sandbox(mine, free_port(), SANDBOX_BACKEND="docker", DOCKER_HOST=away)
    code, found = findings(mine)
    assert code == 1 and found["sandbox"]["status"] == "missing"
    assert "neither bubblewrap nor a Docker engine" in found["sandbox"]["detail"]
    assert "install" in found["sandbox"]["fix"]


def test_a_sandbox_without_a_quota_for_processors_is_a_warning_with_the_way_to_one() -> None:
    isolation = {"memory": "cgroup v2", "processors": "not limited"}
    verdict = {"backend": "bubblewrap", "isolation": isolation, "weaknesses": []}
    finding = checks.judged([verdict], ("code",))
    assert finding.status is checks.Status.WARNING
    assert "processors: not limited" in finding.detail and "Delegate=cpu" in finding.fix
    isolation["processors"] = "quota"
    finding = checks.judged([verdict], ("code",))
    assert (finding.status, finding.fix) == (checks.Status.OK, "")


@pytest.mark.docker
def test_an_engine_without_the_pinned_image_is_told_with_the_command_that_gets_it(
    docker_engine: DockerEngine, mine: Project, free_port: Port
) -> None:
    pin = pinning.Pin("python:3.13-slim", "sha256:" + "a" * 64)
    pinning.write(mine.root / "data" / "sandbox", pin)
    configure_sandbox(mine, free_port(), SANDBOX_BACKEND="docker", DOCKER_HOST=docker_engine.host)
    code, found = findings(mine)
    assert code == 1 and found["sandbox"]["status"] == "missing"
    assert f"the engine has lost the pinned image {pin.reference}" in found["sandbox"]["detail"]
    assert f"mcpcp sandbox pull --image {pin.reference}" in found["sandbox"]["detail"]
    assert "mcpcp sandbox pull" in found["sandbox"]["fix"]


def test_a_setting_of_the_sandbox_that_is_nonsense_is_named(mine: Project, free_port: Port) -> None:
    configure_sandbox(mine, free_port(), SANDBOX_MEMORY_MB="much")
    sandbox = findings(mine)[1]["sandbox"]
    assert sandbox["status"] == "missing"
    assert "SANDBOX_MEMORY_MB is a number, not 'much'" in sandbox["detail"]
