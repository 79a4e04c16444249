"""Load from inside a network: calls a tool of every gateway there until told to stop, and says of
each call when it began and ended, who had it and what came of it. The standard library alone: it
runs in a container, from stdin's first line (its settings) to its end.
"""

import http.client
import json
import random
import socket
import sys
import threading
import time

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "load", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
THREADS = 6
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 300.0

settings = json.loads(sys.stdin.readline())
stopped = threading.Event()
lock = threading.Lock()


def report(**call: object) -> None:
    with lock:
        print(json.dumps(call), flush=True)


def connected() -> tuple[float, str, http.client.HTTPConnection]:
    """A connection to one of the gateways, and when we began to make it: who can't be reached was
    sent nothing."""
    while True:
        found = socket.getaddrinfo(
            settings["name"], settings["port"], socket.AF_INET, socket.SOCK_STREAM
        )
        address = str(random.choice(found)[4][0])  # noqa: S311  (no secret)
        connection = http.client.HTTPConnection(address, settings["port"], timeout=CONNECT_SECONDS)
        began = time.time()
        try:
            connection.connect()
        except OSError:
            connection.close()
            continue
        connection.sock.settimeout(ANSWER_SECONDS)
        return began, address, connection


def call() -> None:
    params = {"name": settings["tool"], "arguments": {}, "_meta": META}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    headers = {
        "Host": "gateway",
        "Authorization": "Bearer " + settings["token"],
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": settings["tool"],
    }
    began, address, connection = connected()
    try:
        connection.request("POST", "/mcp", body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        fine = answer.status == 200 and '"result"' in text and '"isError":true' not in text
        outcome = "ok" if fine else f"{answer.status} {text[:200]}"
    except (OSError, http.client.HTTPException) as error:
        outcome = "cut"
        text = repr(error)
    finally:
        connection.close()
    report(began=began, ended=time.time(), address=address, outcome=outcome)


def work() -> None:
    while not stopped.is_set():
        call()


threads = [threading.Thread(target=work) for _ in range(THREADS)]
for thread in threads:
    thread.start()
sys.stdin.readline()
stopped.set()
for thread in threads:
    thread.join()
