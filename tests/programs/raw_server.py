"""An MCP server over stdio without the SDK: quick to start, and it says what no SDK would say.

Flags: `--modern` knows no initialize; `--hold FILE` shakes hands only once FILE exists; `--name N`;
`--shy` shows a tool of that name only to clients that can be asked; `--journal FILE` notes methods;
`--silent` never says that a list has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Message = dict[str, Any]

parser = argparse.ArgumentParser()
parser.add_argument("--modern", action="store_true")
parser.add_argument("--hold", type=Path)
parser.add_argument("--name", default="raw")
parser.add_argument("--tool", action="append", default=[], help="one more tool, an echo")
parser.add_argument("--shy", action="store_true")
parser.add_argument("--journal")
parser.add_argument("--silent", action="store_true")
options = parser.parse_args()

waiting: dict[Any, Path] = {}
listening: set[Any] = set()
"""Subscriptions of the modern era, by the ids of their requests."""
EXTRA: Message = {"resources": {}} if options.journal else {}
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
introduced: Message = {}
"""What a client of the legacy era said that it can."""
lock = threading.Lock()


def say(message: Message) -> None:
    data = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
    with lock:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def text(value: str, **more: Any) -> Message:
    return {"content": [{"type": "text", "text": value}], **more}


def note(path: str, line: str) -> int:
    """Append a line; how many there are now."""
    with Path(path).open("a+") as file:
        file.write(line + "\n")
        file.flush()
        file.seek(0)
        return len(file.readlines())


def echo(params: Message) -> Message:
    return text(str(params["arguments"].get("message")))


def seen(params: Message) -> Message:
    """The params as they came, and members that nobody knows."""
    return text("seen", structuredContent=params, xUnknown={"kept": [1, None]})


def env(params: Message) -> Message:
    return text("env", structuredContent=dict(os.environ))


def pid(params: Message) -> Message:
    return text(str(os.getpid()))


def fail(params: Message) -> Message:
    return text("it went wrong", isError=True, xUnknown=1)


def refuse(params: Message) -> Message:
    raise LookupError


def mark(params: Message) -> Message:
    """Leave a line in a file and die; where the file had lines, answer instead."""
    if note(params["arguments"]["file"], "called") == 1:
        os._exit(9)
    return text("done")


def progress(params: Message) -> Message:
    token = params["_meta"]["progressToken"]
    arguments = params["arguments"]
    filler = "x" * arguments.get("size", 0)
    for step in range(arguments["steps"]):
        told = {"progressToken": token, "progress": step, "message": f"step {step}{filler}"}
        say({"method": "notifications/progress", "params": told})
    return text("all steps")


def grow(params: Message) -> Message:
    """One more tool, named as told, and the notification of it."""
    name = params["arguments"]["name"]
    if name in tools:
        del tools[name]
    else:
        tools[name] = (echo, {})
    changed = "notifications/tools/list_changed"
    if not (options.modern or options.silent):
        say({"method": changed})
    for request_id in listening:
        say({"method": changed, "params": {"_meta": {SUBSCRIPTION: request_id}}})
    return text(f"{len(tools)} tools")


def sulk(params: Message) -> Message:
    """Refuse to list tools from now on."""
    methods["tools/list"] = refuse
    return text("sulks")


def big(params: Message) -> Message:
    return text("x" * params["arguments"]["size"])


def release(params: Message) -> Message:
    for request_id in list(waiting):
        del waiting[request_id]
        say({"id": request_id, "result": text("released")})
    return text("done")


def ask(params: Message) -> Message:
    """In the modern era: ask twice, by rounds, and say what the answers were."""
    answers = params.get("inputResponses", {})
    state = params.get("requestState", "")
    if answers:
        state += answers["q"]["content"]["word"] + " "
    if len(state.split()) == 2:
        return text(f"the words: {state.strip()}", resultType="complete")
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    asked = {"message": f"word {len(state.split())}", "requestedSchema": schema}
    question = {"q": {"method": "elicitation/create", "params": asked}}
    return {"resultType": "input_required", "inputRequests": question, "requestState": state}


Tool = tuple[Callable[[Message], Message], Message]
tools: dict[str, Tool] = {
    "echo": (echo, {"readOnlyHint": True}),
    "seen": (seen, {}),
    "env": (env, {}),
    "pid": (pid, {}),
    "fail": (fail, {}),
    "refuse": (refuse, {}),
    "mark": (mark, {"destructiveHint": True}),
    "mark_idempotent": (mark, {"idempotentHint": True}),
    "mark_reading": (mark, {"readOnlyHint": True}),
    "progress": (progress, {}),
    "grow": (grow, {}),
    "big": (big, {}),
    "wait": (echo, {}),
    "release": (release, {}),
    **{name: (echo, {}) for name in options.tool},
    **({"ask": (ask, {})} if options.modern else {}),
    **({"shy": (echo, {})} if options.shy else {}),
    **({"sulk": (sulk, {})} if options.silent else {}),
}


def shows(name: str, params: Message) -> bool:
    """Whether the client is one that the tool is for."""
    can = params.get("_meta", {}).get(CAPABILITIES, {}) if options.modern else introduced
    return name != "shy" or "elicitation" in can


def list_tools(params: Message) -> list[Message]:
    return [
        {
            "name": name,
            "description": f"{name} of {options.name}",
            "inputSchema": {"type": "object"},
            "annotations": hints,
            "xUnknown": {"a": 1},
        }
        for name, (_, hints) in tools.items()
        if shows(name, params)
    ]


def initialize(params: Message) -> Message:
    introduced.update(params["capabilities"])
    while options.hold and not options.hold.exists():
        time.sleep(0.01)
    return {
        "protocolVersion": params["protocolVersion"],
        "capabilities": {"tools": {"listChanged": not options.silent}, **EXTRA},
        "serverInfo": {"name": options.name, "version": "1"},
        "instructions": f"How to use {options.name}.",
    }


def discover(params: Message) -> Message:
    found = {"supportedVersions": ["2026-07-28"], "resultType": "complete"}
    return {**found, "capabilities": {"tools": {"listChanged": not options.silent}, **EXTRA}}


def page_of_tools(params: Message) -> Message:
    """On two pages, as large servers do."""
    whole = list_tools(params)
    half = len(whole) // 2
    if params.get("cursor") == "second":
        return {"tools": whole[half:]}
    return {"tools": whole[:half], "nextCursor": "second"}


def list_templates(params: Message) -> Message:
    return {"resourceTemplates": [{"uriTemplate": "raw://{name}", "name": "things"}]}


methods: dict[str, Callable[[Message], Message]] = {
    "server/discover" if options.modern else "initialize": (
        discover if options.modern else initialize
    ),
    "tools/list": page_of_tools,
    "resources/list": lambda _: {"resources": []},
    "resources/templates/list": list_templates,
    "resources/read": lambda params: {"contents": [{"uri": params["uri"], "text": "read"}]},
    **({"resources/subscribe": lambda _: {}} if options.journal else {}),
}


def handle(message: Message) -> Message | None:
    """The result of a request; LookupError where there is none; None to answer later."""
    method, params = message["method"], message.get("params") or {}
    if options.journal:
        note(options.journal, method)
    if method == "tools/call":
        return call(message["id"], params)
    if method == "subscriptions/listen" and options.modern:
        return listen(message["id"], params["notifications"])
    return methods[method](params)


def listen(request_id: Any, wanted: Message) -> Message | None:
    """Tell of changes of lists; who follows a resource too is refused as a whole."""
    if "resourceSubscriptions" in wanted:
        raise LookupError
    listening.add(request_id)
    told = {"notifications": wanted, "_meta": {SUBSCRIPTION: request_id}}
    say({"method": "notifications/subscriptions/acknowledged", "params": told})
    return None


def call(request_id: Any, params: Message) -> Message | None:
    if not shows(params["name"], params):
        raise LookupError
    if params["name"] == "wait":
        path = Path(params["arguments"]["file"])
        waiting[request_id] = path
        note(str(path), "begun")
        token = (params.get("_meta") or {}).get("progressToken")
        if token is not None:
            tell(token, 0)
        if "until" in params["arguments"]:
            until = Path(params["arguments"]["until"])
            beats = params["arguments"].get("beats", False)
            told = (request_id, until, token if beats else None)
            threading.Thread(target=answer_when, args=told, daemon=True).start()
        return None
    return tools[params["name"]][0](params)


def tell(token: Any, step: int) -> None:
    """A sign of progress."""
    say({"method": "notifications/progress", "params": {"progressToken": token, "progress": step}})


def answer_when(request_id: Any, until: Path, token: Any) -> None:
    """Answer a waiting call once a file exists; with a token, tell of progress meanwhile."""
    beats = 0
    while not until.exists():
        time.sleep(0.01)
        beats += 1
        if token is not None and beats % 20 == 0:
            tell(token, beats)
    if waiting.pop(request_id, None) is not None:
        say({"id": request_id, "result": text("released")})


def cancelled(params: Message) -> None:
    listening.discard(params["requestId"])
    path = waiting.pop(params["requestId"], None)
    if path is not None:
        note(str(path), "cancelled")


def receive(message: Message) -> None:
    if message.get("method") == "notifications/cancelled":
        cancelled(message["params"])
    if "id" not in message or "method" not in message:
        return
    try:
        result = handle(message)
    except LookupError:
        code = -32603 if message["method"] in methods else -32601
        error = {"code": code, "message": "Method not found", "data": ["d"], "xUnknown": True}
        say({"id": message["id"], "error": error})
        return
    if result is not None:
        say({"id": message["id"], "result": result})


for raw in sys.stdin.buffer:
    receive(json.loads(raw))
