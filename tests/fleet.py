"""A real fleet for tests: its own config, free ports, the real launcher, and nothing left over.

    def test_something(fleet: Fleet) -> None:
        fleet.add("mcp1")
        fleet.launch()
        assert fleet.call("mcp1_echo", message="hi") == "hi"

The fixture stops what still runs and asserts that no process, no socket and no port is left.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from mcpcp import keyring, tokens
from mcpcp.config import load, runtime_dir
from mcpcp.control import ControlClient
from mcpcp.errors import Unavailable
from mcpcp.fleet import Snapshot
from mcpcp.processes import FLEET_MARK
from tests.modern import META, MODERN
from tests.ports import is_free, reserve

PROJECT = Path(__file__).resolve().parent.parent
UNRULY = PROJECT / "tests" / "programs" / "unruly.py"
LAUNCHER = PROJECT / "launch_servers.py"
MARK = "MCPCP_TEST_FLEET"
PATIENCE = 120.0
"""Seconds for what takes one: the machine may be busy, slow, or stand still for a while.

All that it says is that something hangs, so it is the only bound on a wait there is.
"""


class Fleet:
    """One config, and whatever was started from it."""

    def __init__(self, folder: Path, keys: Path, ports: contextlib.ExitStack) -> None:
        self.folder = folder
        self.config = folder / "mcpcp.json"
        self.mark = uuid.uuid4().hex
        self.servers: dict[str, dict[str, Any]] = {}
        self.agents: dict[str, Any] = {"tester": {"allow": {"*": ["*"]}}}
        self.gateway: dict[str, Any] = {"drain": "2s"}
        self.settings: dict[str, Any] = {"keys_dir": str(keys), "data_dir": str(folder / "data")}
        self.launched: list[subprocess.Popen[bytes]] = []
        self._ports = ports
        self._tokens: dict[str, str] = {}
        # Short: a unix socket's path has 108 bytes at most.
        self._runtime = tempfile.mkdtemp(prefix="mcpcp-", dir="/tmp")
        self.gateway["port"] = self.port()

    # The config

    def port(self, count: int = 1) -> int:
        """One that no other test uses; the first of `count` in a row."""
        return self._ports.enter_context(reserve(count))

    def add(self, name: str, script: Path = UNRULY, **entry: Any) -> int:
        """An entry of `mcpServers` that is quick to start and to stop; its port."""
        port = int(entry.pop("port", None) or self.port())
        self.servers[name] = {
            "type": "sse",
            "command": "python",
            "args": [str(script)],
            "port": port,
            "health": {"path": "/health"},
            **entry,
        }
        return port

    def write(self) -> None:
        """Put the config where it is read from."""
        text = json.dumps(
            {
                "mcpServers": self.servers,
                "gateway": self.gateway,
                "agents": self.agents,
                **self.settings,
            }
        )
        self.put(text)

    def put(self, text: str) -> None:
        """Make that the config's text, whole: nobody reads half of it."""
        draft = self.config.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.config)

    @property
    def environ(self) -> dict[str, str]:
        """For whatever is started: its runtime folder is apart, and each process can be found."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MCPCP_", "PYTEST_"))}
        return {**env, "XDG_RUNTIME_DIR": self._runtime, MARK: self.mark}

    @property
    def runtime_dir(self) -> Path:
        return runtime_dir(self.config, self.environ)

    # Start and stop

    def start(self, *flags: str, **options: Any) -> subprocess.Popen[bytes]:
        """The real launcher, as a user starts it; its log lines go to `launcher.log`."""
        self.write()
        with (self.folder / "launcher.log").open("ab") as log:
            options = {
                "stdout": log,
                "stderr": log,
                "stdin": subprocess.DEVNULL,
                "preexec_fn": heed_signals,
                **options,
            }
            process = subprocess.Popen(
                [
                    sys.executable,
                    str(LAUNCHER),
                    "--no-bootstrap",
                    "--config",
                    str(self.config),
                    *flags,
                ],
                cwd=self.folder,
                env={**self.environ, **options.pop("env", {})},
                **options,
            )
        self.launched.append(process)
        return process

    def launch(self, *flags: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start, and wait until the gateway's /ready answers 200."""
        process = self.start(*flags, **options)
        self.wait_ready()
        return process

    def wait_ready(self) -> None:
        """Until the gateway has every server that can start."""
        self.until(lambda: self.get("/ready") == 200, "the gateway is ready")

    def mcpcp(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """The real command line."""
        return subprocess.run(
            [sys.executable, "-m", "mcpcp", *arguments],
            cwd=self.folder,
            env={**self.environ, "MCPCP_CONFIG": str(self.config)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **options,
        )

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> int:
        """Signal a launcher and wait for its end; its exit code."""
        if process.poll() is None:
            process.send_signal(number)
        return process.wait(PATIENCE)

    # Looking

    def log(self) -> str:
        """What the launchers wrote."""
        path = self.folder / "launcher.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
        """The condition's answer as soon as it is true."""
        deadline = time.monotonic() + timeout
        while not (answer := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {timeout:.0f} s: {what}\n{self.log()[-6000:]}")
            time.sleep(0.01)
        return answer

    def get(self, path: str, port: int | None = None) -> int:
        """The status of a GET; 0 where nobody answers."""
        url = f"http://127.0.0.1:{port or self.gateway['port']}{path}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except (OSError, http.client.HTTPException):
            return 0

    def status(self) -> Snapshot | None:
        """What the supervisor says; None where there is none."""
        try:
            with ControlClient.connect(self.runtime_dir, PATIENCE) as client:
                return Snapshot.from_wire(client.ask("status"))
        except Unavailable:
            return None

    def state(self, name: str) -> str:
        """The state of a server, or of "gateway"."""
        snapshot = self.status()
        row = snapshot and snapshot.fleet.get(name)
        return str(row.state) if row else ""

    def pid(self, name: str) -> int:
        """The running process of a server, or of "gateway"; 0 while there is none."""
        snapshot = self.status()
        row = snapshot and snapshot.fleet.get(name)
        return (row.pid or 0) if row and row.state == "RUNNING" else 0

    def signal(self, name: str, number: int) -> int:
        """Signal the process of a server, or of "gateway", once it runs; its pid."""
        pid = int(self.until(lambda: self.pid(name), f"{name} runs"))
        os.kill(pid, number)
        return pid

    def wait_other(self, name: str, pid: int) -> int:
        """The pid of the process that runs in the place of `pid`, as soon as one does."""
        other = self.until(lambda: (now := self.pid(name)) != pid and now, f"another {name} runs")
        return int(other)

    def token(self, agent: str = "tester") -> str:
        """What `agent` shows to the gateway: the same all the time, as an agent's own would be."""
        if agent not in self._tokens:
            source = tokens.TokenSource(load(self.config, self.environ), agent)
            self._tokens[agent] = source.token()
        return self._tokens[agent]

    def call(self, tool: str, /, _timeout: float = PATIENCE, **arguments: Any) -> Any:
        """The structured answer of a tool, or its text; raises CallFailed with the reason."""
        return post(
            f"http://127.0.0.1:{self.gateway['port']}/mcp", self.token(), tool, arguments, _timeout
        )

    def processes(self) -> list[psutil.Process]:
        """Everything that came from this fleet and lives: by mark, by folder, by command line."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._is_ours(p)]

    def _is_ours(self, process: psutil.Process) -> bool:
        folder = str(self.folder)
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if any(folder in argument for argument in process.cmdline()):
                return True
            environ = process.environ()
            # The launcher has our mark; servers start with a clean environment and the fleet's.
            if environ.get(MARK) == self.mark or self._runtime in environ.get(FLEET_MARK, ""):
                return True
            return process.cwd().startswith(folder)
        return False

    # The end

    def assert_nothing_left(self, within: float = PATIENCE) -> None:
        """No process, port, socket or lock; `within` 0: whoever has ended had promised that."""
        deadline = time.monotonic() + within
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left, f"left over: {[describe(p) for p in left]}\n{self.log()[-4000:]}"
        ports = [self.gateway["port"], *(s["port"] for s in self.servers.values() if "port" in s)]
        assert not [port for port in ports if not is_free(port)]
        files = [str(path) for path in Path(self._runtime).rglob("*") if not path.is_dir()]
        assert not files

    def close(self) -> None:
        """Stop what still runs, as a user would."""
        for process in self.launched:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGINT)
        for process in self.launched:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)

    def clear(self) -> None:
        """Kill what is left, so that no test disturbs the next."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for launched in self.launched:
            launched.wait()
        shutil.rmtree(self._runtime, ignore_errors=True)


class CallFailed(Exception):
    """The gateway, or the tool, said no; the message is its own."""


def post(url: str, token: str, tool: str, arguments: dict[str, Any], timeout: float) -> Any:
    """Call a tool; its structured answer, or its text."""
    result = rpc(url, token, "tools/call", {"name": tool, "arguments": arguments}, timeout)
    said = "".join(part.get("text", "") for part in result.get("content", ()))
    if result.get("isError"):
        raise CallFailed(said)
    structured = result.get("structuredContent")
    return structured.get("result", structured) if structured else said


def rpc(url: str, token: str, method: str, params: dict[str, Any], timeout: float) -> Any:
    """The result of one modern request: no session, no SDK, so that it is quick."""
    params = {**params, "_meta": {**META, **params.get("_meta", {})}}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": method,
        **({"Mcp-Name": params["name"]} if "name" in params else {}),
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            raise CallFailed(f"{error.code}: {error.read().decode()}") from None
    except (OSError, http.client.HTTPException) as error:
        raise CallFailed(str(error) or type(error).__name__) from None
    lines = [line[5:] for line in text.splitlines() if line.startswith("data:")]
    answer = json.loads(lines[-1] if lines else text)
    if "error" in answer:
        raise CallFailed(answer["error"]["message"])
    return answer["result"]


def heed_signals() -> None:
    """In a launcher to be: a test run under nohup must not hand its deafness on."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def describe(process: psutil.Process) -> str:
    """Pid and command line."""
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:160]}"
    return str(process.pid)


@contextlib.contextmanager
def open_fleet(folder: Path, keys: Path) -> Iterator[Fleet]:
    """A fleet that is stopped at the end, and must then have left nothing."""
    with contextlib.ExitStack() as ports:
        fleet = Fleet(folder, keys, ports)
        try:
            yield fleet
            fleet.close()
            fleet.assert_nothing_left()
        finally:
            fleet.clear()


def make_keys(folder: Path) -> Path:
    """A key ring that many fleets can share: making one takes a while."""
    keyring.ensure(folder, bits=2048)
    return folder
