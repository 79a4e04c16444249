"""The chat service as a part of the fleet: the project's own entry, real servers, the launcher."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.chat.harness import PATIENCE, ask, stream
from tests.chat.scripted import Exchange, ScriptedLlm, call, quote, say, scripted_llm
from tests.fleet import PROJECT, Fleet

BOTH = ("mcp3_run_python_code", "time_get_current_time")
QUESTION = "Execute: print('Hello') and tell me the time"


@pytest.fixture
def llm() -> Iterator[ScriptedLlm]:
    with scripted_llm() as made:
        yield made


def add_chat(fleet: Fleet, llm: ScriptedLlm) -> None:
    """The entry of the project's config, on a free port and before the scripted model."""
    whole = json.loads((PROJECT / "mcpcp.json").read_text())
    env = {"LLM_BASE_URL": llm.url, "LLM_MODEL_NAME": "scripted"}
    entry = whole["mcpServers"]["chat"]
    fleet.servers["chat"] = {**entry, "cwd": str(PROJECT), "port": fleet.port(), "env": env}
    fleet.agents["chat"] = {"allow": {"*": ["*"]}}


def add_servers(fleet: Fleet) -> None:
    fleet.add("mcp3", PROJECT / "servers" / "python_code.py")
    fleet.add("time", PROJECT / "servers" / "time_client.py")


def client_of(fleet: Fleet, token: str | None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"http://127.0.0.1:{fleet.servers['chat']['port']}"
    return httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, verify=False)  # noqa: S501


def running(fleet: Fleet) -> None:
    fleet.until(lambda: fleet.state("chat") == "RUNNING", "the chat service runs")


def offered(fleet: Fleet, client: httpx.Client, *tools: str) -> None:
    """Wait until the caller is offered these tools: a server may be slow to start."""

    def shown() -> bool:
        names = {tool["name"] for tool in client.get("/tools").raise_for_status().json()["tools"]}
        return names.issuperset(tools)

    fleet.until(shown, f"there are {tools}")


def both(exchange: Exchange) -> None:
    """What a good model does with the question: both calls in one answer."""
    code = ("mcp3_run_python_code", {"code": "print('Hello')"})
    call(code, ("time_get_current_time", {"timezone": "Europe/Berlin"}))(exchange)


def test_the_example_makes_both_calls_in_parallel_and_answers_with_both(
    fleet: Fleet, llm: ScriptedLlm
) -> None:
    add_servers(fleet)
    add_chat(fleet, llm)
    fleet.launch()
    running(fleet)
    llm.play(both, quote())
    with client_of(fleet, fleet.token("chat")) as client:
        offered(fleet, client, *BOTH)
        events = stream(client, QUESTION)
    asked = {tool["function"]["name"] for tool in llm.requests[0]["tools"]}
    assert asked.issuperset(BOTH)
    names = [name for name, _ in events]
    assert names[:2] == ["tool_started", "tool_started"]  # the second does not wait for the first
    answer: Any = events[-1][1]
    code, moment = answer["tool_calls"]
    assert code["error"] is None and "\nHello\n" in code["result"]
    assert moment["error"] is None and "Europe/Berlin" in moment["result"]
    assert "Hello" in answer["message"]["content"]
    assert "Europe/Berlin" in answer["message"]["content"]


def test_it_is_kept_alive_and_stopped_like_a_server(fleet: Fleet, llm: ScriptedLlm) -> None:
    add_chat(fleet, llm)
    fleet.add("time", PROJECT / "servers" / "time_client.py")
    launcher = fleet.launch("--only", "chat")
    running(fleet)
    assert fleet.state("time") == "STOPPED"
    first = fleet.until(lambda: fleet.pid("chat"), "it runs")
    os.kill(first, signal.SIGKILL)
    fleet.until(lambda: fleet.pid("chat") not in (0, first), "it is back")
    llm.play(say("Hello."))
    with client_of(fleet, fleet.token("chat")) as client:
        assert ask(client)["message"]["content"] == "Hello."
    assert "chat" in fleet.mcpcp("status").stdout
    assert fleet.stop(launcher, signal.SIGINT) == 0


def test_the_link_signs_in_as_the_services_agent(fleet: Fleet, llm: ScriptedLlm) -> None:
    add_chat(fleet, llm)
    fleet.add("time", PROJECT / "servers" / "time_client.py")
    fleet.agents["chat"] = {"allow": {"time": ["get_current_time"]}}
    fleet.launch()
    running(fleet)
    shown = fleet.mcpcp("chat", "link")
    url, _, token = shown.stdout.strip().partition("#token=")
    assert url == f"http://127.0.0.1:{fleet.servers['chat']['port']}/"
    with client_of(fleet, token) as client:
        offered(fleet, client, "time_get_current_time")
        tools = client.get("/tools").json()["tools"]
    assert [tool["name"] for tool in tools] == ["time_get_current_time"]


def test_a_server_that_is_stopped_costs_its_tools_only(fleet: Fleet, llm: ScriptedLlm) -> None:
    add_servers(fleet)
    add_chat(fleet, llm)
    fleet.launch()
    running(fleet)
    with client_of(fleet, fleet.token("chat")) as client:
        offered(fleet, client, *BOTH)
        fleet.servers["mcp3"]["command"] = "/nowhere"  # it can't start any more
        fleet.write()
        fleet.until(lambda: fleet.state("mcp3") in ("BACKOFF", "FATAL"), "mcp3 is down")
        llm.play(
            call(("mcp3_run_python_code", {"code": "1"}), ("time_get_current_time", {})), quote()
        )
        answer = ask(client, QUESTION)
    code, moment = answer["tool_calls"]
    assert code["error"]
    assert moment["error"] is None
    assert code["error"] in answer["message"]["content"]


def test_without_its_agent_it_says_what_to_add(fleet: Fleet) -> None:
    fleet.write()
    done = fleet.mcpcp("chat", "--port", str(fleet.port()))
    assert done.returncode == 2
    assert "has no agent 'chat'" in done.stderr and "chat.agent" in done.stderr


def test_anonymous_callers_and_an_open_address_do_not_go_together(fleet: Fleet) -> None:
    fleet.agents["chat"] = {"allow": {}}
    fleet.settings["chat"] = {"anonymous": True}
    fleet.write()
    done = fleet.mcpcp("chat", "--host", "0.0.0.0", "--port", str(fleet.port()))
    assert done.returncode == 2
    assert "chat.anonymous" in done.stderr


def test_a_port_that_is_taken_is_named(fleet: Fleet, stranger: Any) -> None:
    fleet.agents["chat"] = {"allow": {}}
    fleet.write()
    port = fleet.port()
    with stranger(port):
        done = fleet.mcpcp("chat", "--port", str(port))
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr


def test_the_models_settings_come_from_dotenv_too(fleet: Fleet, llm: ScriptedLlm) -> None:
    add_chat(fleet, llm)
    entry = json.loads((PROJECT / "mcpcp.json").read_text())["mcpServers"]["chat"]
    fleet.servers["chat"]["env"] = entry["env"]
    (fleet.folder / ".env").write_text(f"LLM_BASE_URL={llm.url}\nLLM_MODEL_NAME=of-dotenv\n")
    fleet.launch()
    running(fleet)
    llm.play(say("Hello."))
    with client_of(fleet, fleet.token("chat")) as client:
        ask(client)
    assert llm.requests[0]["model"] == "of-dotenv"
