"""An MCP server over stdio that says, when asked, what no server should: raw lines, word by word.

`say` writes its `lines` as they are, with $ID for the id of the call, and then answers, unless
`answer` is false. `--name N` tells several of them apart; `--journal FILE` notes
what they are told.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="rude")
parser.add_argument("--journal", type=Path)
options = parser.parse_args()


asked: dict[str, Any] = {}
"""Calls that wait for what the client was asked, by the id of the question."""


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def answer(request_id: Any, result: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}))


def text(value: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}]}


def flood(megabytes: int, half: str, go: str) -> None:
    """A line without an end; half of it waits until the file `go` exists, and says so in `half`."""
    write('{"jsonrpc":"2.0","method":"notifications/message","params":"')
    for number in range(megabytes):
        if number == megabytes // 2:
            sys.stdout.flush()
            Path(half).touch()
            while not Path(go).exists():
                time.sleep(0.01)
        sys.stdout.write("x" * 2**20)
    sys.stdout.flush()


def call(request_id: Any, name: str, arguments: dict[str, Any]) -> None:
    if name == "echo":
        answer(request_id, text(arguments["message"]))
    elif name == "ask":
        asked[f"question-{request_id}"] = request_id
        question = {"id": f"question-{request_id}", "method": "sampling/createMessage"}
        params = {"messages": [], "maxTokens": 10}
        write(json.dumps({"jsonrpc": "2.0", **question, "params": params}))
    elif name == "flood":
        flood(**arguments)
    else:
        for line in arguments["lines"]:
            write(line.replace("$ID", json.dumps(request_id)))
        if arguments.get("answer", True):
            answer(request_id, text("said"))


def note(message: dict[str, Any]) -> None:
    if options.journal:
        with options.journal.open("a") as journal:
            journal.write(json.dumps({"pid": os.getpid(), **message}) + "\n")


PLAIN: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "resources/list": lambda _: {
        "resources": [{"uri": f"rude://{options.name}", "name": "watched"}]
    },
    "resources/read": lambda params: {
        "contents": [{"uri": params["uri"], "text": f"of {options.name}"}]
    },
    "logging/setLevel": lambda _: {},
    "resources/subscribe": lambda _: {},
    "resources/unsubscribe": lambda _: {},
}


def receive(message: dict[str, Any]) -> None:
    method, request_id, params = message.get("method"), message.get("id"), message.get("params", {})
    note(message)
    if method is None and request_id in asked:
        answer(asked.pop(request_id), text(json.dumps(message.get("result"))))
    if request_id is None or method is None:
        return
    if method == "initialize":
        version = params["protocolVersion"]
        info = {"name": options.name, "version": "1"}
        capabilities: dict[str, Any] = {
            "tools": {},
            "logging": {},
            "resources": {"subscribe": True},
        }
        hello = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
        answer(request_id, hello)
    elif method == "tools/list":
        schema = {"type": "object"}
        names = ("echo", "say", "ask", "flood")
        answer(request_id, {"tools": [{"name": n, "inputSchema": schema} for n in names]})
    elif method in PLAIN:
        answer(request_id, PLAIN[method](params))
    elif method == "tools/call":
        call(request_id, params["name"], params.get("arguments") or {})
    else:
        error = {"code": -32601, "message": f"Method not found: {method}"}
        write(json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}))


for raw in sys.stdin:
    receive(json.loads(raw))
