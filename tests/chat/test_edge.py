"""The HTTP edge: who is let in, what a body must be, what the service says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from tests.chat.harness import Chat, ask, messages, open_chat, until_seen
from tests.chat.scripted import ScriptedLlm, call, say
from tests.gateway.harness import Gateway

PROTECTED = [
    ("GET", "/tools"),
    ("GET", "/v1/models"),
    ("POST", "/chat"),
    ("POST", "/execute"),
    ("POST", "/v1/chat/completions"),
]
BODY = {"messages": messages("Hi")}


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("token", [None, "no.token.atall"])
def test_without_a_good_token_nothing_is_done(
    chat: Chat, llm: ScriptedLlm, method: str, path: str, token: str | None
) -> None:
    body = {"name": "raw_echo"} if path == "/execute" else BODY
    with chat.client(token) as client:
        answer = client.request(method, path, json=body if method == "POST" else None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["error"]["type"] == "unauthorized"
    assert not llm.requests


def test_a_revoked_token_is_refused_at_once(chat: Chat, gateway: Gateway) -> None:
    from mcpcp.state import FileRevocations
    from mcpcp.tokens import read_claims

    token = gateway.token()
    claims = read_claims(token)
    with chat.client(token) as client:
        assert client.get("/tools").status_code == 200
        FileRevocations(gateway.folder / "data" / "revocations").revoke(
            claims["jti"], claims["exp"]
        )
        gateway.wait(lambda: client.get("/tools").status_code == 401, "refused")


def test_without_a_token_callers_are_the_services_own_agent_where_the_config_says_so(
    gateway: Gateway, llm: ScriptedLlm
) -> None:
    config = gateway.folder / "anonymous.json"
    whole = json.loads(gateway.config.read_text())
    whole["chat"] |= {"anonymous": True}
    config.write_text(json.dumps(whole))
    llm.play(call(("raw_echo", {"message": "hi"}), ("raw_pid", {})), say("Done."))
    with (
        open_chat(config, gateway.environ, LLM_BASE_URL=llm.url) as chat,
        chat.client(None) as client,
        chat.client("no.token.atall") as liar,
    ):
        allowed, forbidden = ask(client)["tool_calls"]
        assert liar.get("/tools").status_code == 401
    assert allowed["result"] == "hi"
    assert "no tool 'raw_pid'" in forbidden["error"]
    assert gateway.audit()[-1]["agent"] == "chat"


def test_a_rebound_host_and_a_foreign_page_are_turned_away(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        answer = client.post("/chat", json=BODY, headers=headers)
        assert answer.status_code == 403
        assert "add it to chat.allowed_" in answer.json()["error"]["message"]
    assert not llm.requests


def test_what_a_page_may_send_without_asking_is_not_taken(client: httpx.Client) -> None:
    answer = client.post("/chat", content=json.dumps(BODY), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


def test_cors_is_for_the_origins_of_the_config(gateway: Gateway, llm: ScriptedLlm) -> None:
    config = gateway.folder / "cors.json"
    whole = json.loads(gateway.config.read_text())
    whole["chat"] |= {"allowed_origins": ["https://app.example"]}
    config.write_text(json.dumps(whole))
    asked = {"Access-Control-Request-Method": "POST"}
    with (
        open_chat(config, gateway.environ, LLM_BASE_URL=llm.url) as chat,
        chat.client(gateway.token()) as client,
    ):
        good = client.options("/chat", headers={"Origin": "https://app.example", **asked})
        bad = client.options("/chat", headers={"Origin": "https://evil.example", **asked})
        answer = client.post("/chat", json=BODY, headers={"Origin": "https://app.example"})
    assert good.status_code == 200
    assert good.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in bad.headers
    assert answer.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "'messages' is a required property"),
        ({"messages": []}, "$.messages"),
        ({"messages": [{"role": "robot", "content": ""}]}, "$.messages[0].role"),
        ({"messages": messages("Hi"), "max_turns": 0}, "$.max_turns"),
        ({"messages": messages("Hi"), "modle": "x"}, "modle"),
        ([], "not of type 'object'"),
    ],
)
def test_a_wrong_body_is_told_what_is_wrong(client: httpx.Client, body: object, says: str) -> None:
    answer = client.post("/chat", json=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_no_json_and_too_much_of_it_are_refused(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    assert client.post("/chat", content="{", headers=headers).status_code == 400
    large = json.dumps({"messages": messages("x" * 5_000_000)})
    assert client.post("/chat", content=large, headers=headers).status_code == 413


def test_unknown_paths_and_methods_are_answered_with_where_to_look(client: httpx.Client) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/chat").status_code == 405
    assert "/docs" in client.get("/nothing").json()["error"]["message"]


def test_execute_calls_one_tool(client: httpx.Client) -> None:
    body = {"name": "raw_echo", "arguments": {"message": "hi"}}
    record = client.post("/execute", json=body).json()
    assert record["result"] == "hi" and record["error"] is None and record["duration"] > 0
    failed = client.post("/execute", json={"name": "raw_fail"}).json()
    assert failed["error"] == "it went wrong" and failed["result"] is None
    assert client.post("/execute", json={"name": "raw_gone"}).status_code == 404


def test_ready_names_each_dependency_and_its_state(chat: Chat, llm: ScriptedLlm) -> None:
    with chat.client(None) as client:
        answer = until_seen(client, gateway="ready", llm="ready")
    assert answer.status_code == 200, answer.text
    dependencies = answer.json()["dependencies"]
    assert dependencies["gateway"] | {"url": ""} == {"url": "", "state": "ready", "tools": 1}
    assert dependencies["llm"] == {"url": llm.url, "model": "scripted", "state": "ready"}


def test_a_model_that_the_endpoint_lacks_is_not_ready(gateway: Gateway, llm: ScriptedLlm) -> None:
    variables = {"LLM_BASE_URL": llm.url, "LLM_MODEL_NAME": "missing"}
    with (
        open_chat(gateway.config, gateway.environ, **variables) as chat,
        chat.client(None) as client,
    ):
        answer = until_seen(client, llm="model_missing")
    assert answer.status_code == 503
    assert "LLM_MODEL_NAME" in answer.json()["dependencies"]["llm"]["detail"]


def test_without_its_gateway_it_says_so(
    gateway: Gateway, llm: ScriptedLlm, free_port: Callable[[], int]
) -> None:
    url = f"http://127.0.0.1:{free_port()}/mcp"
    variables = {"LLM_BASE_URL": llm.url, "MCP_SERVER_URL": url, "LLM_MODEL_NAME": "scripted"}
    with (
        open_chat(gateway.config, gateway.environ, **variables) as chat,
        chat.client(gateway.token()) as client,
    ):
        assert client.get("/health").status_code == 200
        ready = client.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["dependencies"]["gateway"]["state"] == "unreachable"
        answer = client.post("/chat", json=BODY)
    assert answer.status_code == 503
    assert url in answer.json()["error"]["message"]
    assert not llm.requests


def test_what_it_counts_is_there_to_scrape(
    client: httpx.Client, chat: Chat, llm: ScriptedLlm
) -> None:
    llm.play(call(("raw_echo", {"message": "hi"}), ("raw_none", {})), say("Done."))
    ask(client)
    assert client.get("/metrics").status_code == 401  # an agent's token is not for that
    text = chat.metrics()
    for line in (
        'chat_requests_total{outcome="ok"}',
        'chat_tool_calls_total{outcome="ok"}',
        'chat_tool_calls_total{outcome="mistake"}',
        'chat_llm_duration_seconds_count{outcome="ok"}',
        'chat_tokens_total{kind="prompt"}',
        "chat_in_flight 0.0",
    ):
        assert line in text


def test_the_api_is_described_at_docs(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    page = client.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for path in document["paths"]:
        assert path in page.text
        assert client.options(path).status_code == 405  # it is there


def test_a_requests_id_goes_with_its_tool_calls_to_the_gateway(
    client: httpx.Client, gateway: Gateway, llm: ScriptedLlm
) -> None:
    llm.play(call(("raw_echo", {"message": "hi"})), say("Done."))
    body = {"messages": messages("Go on")}
    answer = client.post("/chat", json=body, headers={"X-Request-Id": "of-the-caller"})
    assert answer.headers["x-request-id"] == "of-the-caller"
    assert gateway.audit()[-1]["request_id"] == "of-the-caller"


def test_secrets_are_not_in_the_log(chat: Chat, client: httpx.Client) -> None:
    ask(client)
    assert "sk-secret" not in chat.text()
    assert client.headers["authorization"].removeprefix("Bearer ") not in chat.text()
