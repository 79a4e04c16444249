"""`mcpcp stdio`: a thin relay between an MCP client's pipes and the fleet's gateway.

It imports as little as it can, presents its agent's token, and copies lines. When the gateway dies
and comes back it introduces the client again, so that the client's session lives on; what was in
flight is answered with an error, never sent twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, cast

from mcpcp.errors import ConfigError, McpcpError, Unavailable

RECONNECT_TIMEOUT: Final = 60.0
RENEW_EVERY: Final = 30.0
MOST_FLEETS: Final = 3
"""Fleets that may end while a client comes to them, before it gives up."""
_READ_AT_ONCE: Final = 256 * 1024
"""Bytes: a large result comes in a few pieces, not in dozens."""
_INTRODUCTION: Final = '"mcpcp-relay"'
_ANSWER: Final = re.compile(
    rb'\{"jsonrpc":"2\.0","id":("(?:[^"\\]|\\.)*"|-?[0-9.eE+-]+),"(?:result|error)"'
)


def main(arguments: list[str]) -> int:
    """Run the relay; what goes wrong before it is connected is said on stderr."""
    options = _parse(arguments)
    try:
        return _run(options)
    except McpcpError as error:
        sys.stderr.write(f"mcpcp stdio: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mcpcp stdio", add_help=False)
    parser.add_argument("--agent")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--no-launch", action="store_true")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    from mcpcp.config.places import find_config, runtime_dir
    from mcpcp.supervisor.background import answers, ensure_fleet

    config = find_config(options.config)
    token = token_source(config, options.agent, options.token_file)
    runtime = runtime_dir(config)
    for left in reversed(range(MOST_FLEETS)):
        if not options.no_launch:
            ensure_fleet(config)
        elif not answers(runtime):
            break
        relay = Relay(runtime, token)
        try:
            relay.connect()
        except _FleetGone:
            if not left:
                raise
            continue  # one that nobody used has ended in just this moment
        _leave(relay.run())
    return _serve_alone(config, token())


def _leave(code: int) -> NoReturn:
    """End at once: a thread may wait for the client's input still, with its buffer locked, and the
    interpreter's own end would abort over that."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve_alone(config: Path, token: str) -> int:
    import logging

    from mcpcp import eventloop, logs, service
    from mcpcp.config import load

    loaded = load(config)
    logs.hide(token)
    logs.configure(loaded.logs.format, loaded.logs.level, logging.StreamHandler())
    try:
        eventloop.run(lambda: service.stdio_alone(loaded, token))
    except BaseExceptionGroup as group:
        known, others = group.split(McpcpError)
        if known is None or others is not None:
            raise
        error: BaseException = known
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    return 0


def token_source(config: Path, agent: str | None, token_file: Path | None) -> Callable[[], str]:
    """Where the relay's tokens come from: a file, MCPCP_TOKEN, or the key that signs them."""
    from mcpcp.config.places import process_environment

    if token_file is not None:
        return lambda: _read_token(token_file)
    given = process_environment().get("MCPCP_TOKEN")
    if given is not None:
        return lambda: given
    from mcpcp import keyring
    from mcpcp.config import load
    from mcpcp.tokens import TokenSource

    loaded = load(config)
    if agent is None and len(loaded.agents) == 1:
        agent = next(iter(loaded.agents))
    if agent is None:
        known = ", ".join(loaded.agents)
        raise ConfigError(f"say which agent this client is: --agent NAME, one of {known}")
    keyring.ensure(loaded.keys_dir)
    return TokenSource(loaded, agent).token


def _read_token(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"the token file {path} can't be read: {error.strerror}") from None


class _FleetGone(Unavailable):
    """There is no fleet at this place, or not any more."""


class _GatewayAway(Exception):
    """The gateway is not there, or not any more."""


class Relay:
    """One client's connection to the gateway, kept up over the gateway's restarts.

    Three threads, because a pipe can't be waited for in any other way everywhere: this one copies
    answers, one copies requests, one renews the token.
    """

    def __init__(self, runtime: Path, token: Callable[[], str]) -> None:
        self._runtime = runtime
        self._token = token
        self._shown_token = ""
        self._lock = threading.Lock()  # held for whole lines, and while there is no connection
        self._in_flight: dict[str, None] = {}
        self._unsent: list[bytes] = []
        self._initialize: dict[str, Any] | None = None
        self._finished = False
        self._answers: BinaryIO
        self._socket: socket.socket

    def connect(self) -> None:
        """Be let in by the gateway; raises Unavailable."""
        self._connect(time.monotonic() + RECONNECT_TIMEOUT)

    def run(self) -> int:
        """Copy until the client or the fleet has gone; it is connected."""
        for work in (self._copy_requests, self._renew_token):
            threading.Thread(target=work, daemon=True).start()
        while True:
            self._copy_answers()
            if self._finished:
                return 0
            if not self._reconnect():
                sys.stderr.write("mcpcp stdio: the fleet has stopped\n")
                return 1

    # From the client.

    def _copy_requests(self) -> None:
        for line in sys.stdin.buffer:
            with self._lock:
                self._forward(line if line.endswith(b"\n") else line + b"\n")
        with self._lock:
            self._finished = True
            self._socket.shutdown(socket.SHUT_WR)

    def _forward(self, line: bytes) -> None:
        """Send a line, or keep it for the next connection: a line that broke off had no effect."""
        request_id = self._note_request(line)
        if self._unsent or not self._send(line):
            self._unsent.append(line)
            self._in_flight.pop(request_id, None)

    def _note_request(self, line: bytes) -> str:
        """Remember a request before it is sent; its id, empty where it is none."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return ""  # the gateway says what is wrong with it
        if not isinstance(message, dict) or "method" not in message or "id" not in message:
            return ""
        request_id = json.dumps(message["id"], ensure_ascii=False)  # as answers spell it
        self._in_flight[request_id] = None
        if message["method"] == "initialize":
            self._initialize = message
        return request_id

    def _send(self, line: bytes) -> bool:
        try:
            self._socket.sendall(line)
        except OSError:
            return False  # the end of the connection is noticed where answers are read
        return True

    def _renew_token(self) -> None:
        while True:
            time.sleep(RENEW_EVERY)
            try:
                token = self._token()
            except McpcpError as error:
                sys.stderr.write(f"mcpcp stdio: the token can't be renewed: {error}\n")
                continue
            with self._lock:
                if token != self._shown_token:
                    self._shown_token = token
                    self._send(json.dumps({"token": token}).encode() + b"\n")

    # From the gateway.

    def _copy_answers(self) -> None:
        out = sys.stdout.buffer
        for line in self._lines():
            answer = _ANSWER.match(line)
            if answer is not None:
                self._in_flight.pop(answer[1].decode(), None)
            out.write(line)
            out.flush()

    def _lines(self) -> Any:
        while True:
            try:
                line = self._answers.readline()
            except OSError:
                return
            if not line.endswith(b"\n"):
                return
            yield line

    # The connection.

    def _connect(self, deadline: float) -> None:
        """Present the token to the gateway, which may be about to start while the fleet runs."""
        token = self._token()
        while True:
            try:
                self._present(token)
                break
            except (_GatewayAway, OSError) as error:
                self._check_fleet()
                if time.monotonic() > deadline:
                    raise Unavailable(f"the gateway does not come back: {error}") from None
                time.sleep(0.02)
        self._shown_token = token

    def _present(self, token: str) -> None:
        """One try; a gateway that is being killed may take a connection and never speak."""
        from mcpcp.control import GATEWAY_SOCKET, connect_private

        try:
            connection = connect_private(self._runtime / GATEWAY_SOCKET)
        except Unavailable as error:
            raise _GatewayAway(str(error)) from None
        answers = cast(BinaryIO, connection.makefile("rb", buffering=_READ_AT_ONCE))
        connection.sendall(json.dumps({"token": token}).encode() + b"\n")
        hello = answers.readline()
        if not hello.endswith(b"\n"):
            connection.close()
            raise _GatewayAway("it went away")
        refusal = json.loads(hello).get("error")
        if refusal is not None:
            raise Unavailable(f"the gateway does not take the token: {refusal}")
        connection.settimeout(None)
        self._socket, self._answers = connection, answers

    def _check_fleet(self) -> None:
        """Raise once there is no supervisor that would bring the gateway back."""
        from mcpcp.control import CONTROL_SOCKET, connect_private

        try:
            connect_private(self._runtime / CONTROL_SOCKET).close()
        except Unavailable as error:
            raise _FleetGone(str(error)) from None

    def _reconnect(self) -> bool:
        """Find the restarted gateway and introduce the client; False where the fleet has ended."""
        with self._lock:
            lost, self._in_flight = self._in_flight, {}
            for request_id in lost:
                _write_error(request_id)
            try:
                self._connect(time.monotonic() + RECONNECT_TIMEOUT)
            except (McpcpError, OSError):
                return False
            with contextlib.suppress(OSError):  # killed again: noticed where answers are read
                self._introduce()
            unsent, self._unsent = self._unsent, []
            for line in unsent:
                self._forward(line)
        return True

    def _introduce(self) -> None:
        if self._initialize is None:
            return
        hello = {**self._initialize, "id": json.loads(_INTRODUCTION)}
        self._socket.sendall(json.dumps(hello).encode() + b"\n")
        for line in self._lines():
            answer = _ANSWER.match(line)
            if answer is not None and answer[1].decode() == _INTRODUCTION:
                break
        self._socket.sendall(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        changed = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'
        sys.stdout.buffer.write(changed)
        sys.stdout.buffer.flush()


def _write_error(request_id: str) -> None:
    text = "the gateway restarted while the call was running: whether it took effect is not known"
    error = json.dumps({"code": -32000, "message": text, "data": {"delivered": True}})
    line = f'{{"jsonrpc":"2.0","id":{request_id},"error":{error}}}\n'
    sys.stdout.buffer.write(line.encode("utf-8"))
    sys.stdout.buffer.flush()
