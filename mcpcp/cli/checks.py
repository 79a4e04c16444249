"""What `mcpcp doctor` looks at; each check ends within seconds."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mcpcp import keyring
from mcpcp.cli import scripts
from mcpcp.cli.options import visible
from mcpcp.cli.pins import open_book
from mcpcp.config import Config, ServerConfig, load, process_environment, runtime_dir
from mcpcp.config.values import PYTHON
from mcpcp.control import ControlClient
from mcpcp.errors import ConfigError, KeyRingError, McpcpError, Unavailable

DEADLINE = 20.0
"""Seconds that one look at the outside may take."""

MOST_NAMED = 5
"""Tools that are named one by one."""

SANDBOX_DEADLINE = 300.0
"""Seconds for the self-test of every sandbox that there is."""

PACKAGES = ("mcp", "uvicorn", "starlette", "docker", "psutil", "orjson", "msgspec", "rich", "jwt")

PROCESSORS = (
    "code may take every processor, SANDBOX_CPUS holds nothing: let systemd hand out the controller"
    " `cpu` (sudo systemctl edit user@.service: [Service] Delegate=cpu cpuset io memory pids; then"
    " log in again), or run the servers where control groups may be divided"
)
"""The way to a quota, where the best sandbox there is has none."""

GET = {
    "npx": "install Node.js: https://nodejs.org (or your package manager's nodejs and npm)",
    "node": "install Node.js: https://nodejs.org",
    "uvx": "install uv: https://docs.astral.sh/uv (or: pip install uv)",
    "uv": "install uv: https://docs.astral.sh/uv (or: pip install uv)",
    "docker": "install Docker: https://docs.docker.com/get-docker",
    "deno": "install Deno: https://deno.com",
    "bunx": "install Bun: https://bun.sh",
}


class Status(StrEnum):
    """How a finding stands; only what is missing makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and the way out where it is not well."""

    what: str
    status: Status
    detail: str
    fix: str = ""
    servers: tuple[str, ...] = ()


def check_all(path: Path) -> list[Finding]:
    """Look at everything that the config at `path` needs on this machine."""
    findings = [*_check_python()]
    try:
        config = load(path)
    except ConfigError as e:
        fix = f"edit {path}"
        return [*findings, *(Finding("config", Status.MISSING, m, fix) for m in _lines(e))]
    findings.append(Finding("config", Status.OK, str(config.path)))
    findings += (Finding("config", Status.WARNING, warning) for warning in config.warnings)
    for check in (
        _check_keys,
        _check_runtime,
        _check_commands,
        _check_engines,
        _check_model,
        _check_ports,
        _check_pins,
    ):
        findings += check(config)
    return findings


def _lines(error: ConfigError) -> list[str]:
    return str(error).split("\n") if "\n    " not in str(error) else [str(error)]


def _check_python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", Status.OK, f"{version}, {sys.executable}")
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        fix = f"{sys.executable} -m pip install -e ."
        yield Finding("packages", Status.MISSING, f"not installed: {', '.join(lacking)}", fix)


def _check_keys(config: Config) -> Iterator[Finding]:
    try:
        ring = keyring.list_keys(config.keys_dir)
    except KeyRingError as e:
        if (config.keys_dir / keyring.JWKS).exists():
            yield Finding("keys", Status.MISSING, str(e), "restore jwks.json, or remove all keys")
        else:
            yield Finding("keys", Status.WARNING, "none yet", "the first start makes them")
        return
    exposed = [p for k in ring if _is_exposed(p := keyring.private_path(config.keys_dir, k.kid))]
    for path in exposed:
        yield Finding("keys", Status.WARNING, f"others can read {path}", f"chmod 600 {path}")
    if keyring.can_sign(config.keys_dir):
        yield Finding("keys", Status.OK, f"{len(ring)} in {config.keys_dir}, one signs")
    else:
        yield Finding(
            "keys",
            Status.WARNING,
            f"no private key in {config.keys_dir} that you can read: tokens are checked, not made",
            "stdio and client.py need MCPCP_TOKEN or --token-file here",
        )


def _is_exposed(path: Path) -> bool:
    return sys.platform != "win32" and path.exists() and bool(path.stat().st_mode & 0o077)


def _check_runtime(config: Config) -> Iterator[Finding]:
    try:
        folder = runtime_dir(config.path)
    except McpcpError as e:
        yield Finding("runtime folder", Status.MISSING, str(e), "remove it, then run this again")
    else:
        yield Finding("runtime folder", Status.OK, str(folder))


def _check_commands(config: Config) -> Iterator[Finding]:
    by_command: dict[str, list[ServerConfig]] = {}
    for server in config.active.values():
        if server.command is not None:
            by_command.setdefault(server.argv()[0], []).append(server)
    for command, servers in by_command.items():
        yield _check_command(command, servers)
    for server in config.active.values():
        script = _script(server)
        if script is not None and not script.is_file():
            yield Finding(
                "script", Status.MISSING, f"{script} does not exist", "correct args or cwd",
                (server.name,),
            )  # fmt: skip


def _check_command(command: str, servers: list[ServerConfig]) -> Finding:
    names = tuple(server.name for server in servers)
    places = {_which(server) for server in servers}
    if None in places:
        fix = GET.get(command, f"install {command}, or correct `command`")
        return Finding(command, Status.MISSING, "is not on PATH", fix, names)
    return Finding(
        Path(command).name, Status.OK, ", ".join(sorted(filter(None, places))), "", names
    )


def _which(server: ServerConfig) -> str | None:
    command = server.argv()[0]
    if "/" in command or "\\" in command:
        command = str(server.cwd / Path(command).expanduser())
    path = server.environment().get("PATH", process_environment().get("PATH"))
    return shutil.which(command, path=path)


def _script(server: ServerConfig) -> Path | None:
    """The Python file that a server runs, if its arguments begin with one."""
    if server.command not in PYTHON or not server.args or not server.args[0].endswith(".py"):
        return None
    return server.cwd / server.args[0]


def _check_engines(config: Config) -> Iterator[Finding]:
    wanting_docker = scripts.running(config, scripts.CONTAINERS)
    wanting_sandbox = scripts.running(config, scripts.SANDBOXED)
    if not (wanting_docker or wanting_sandbox):
        return
    if wanting_docker:
        no_docker = _why_no_docker()
        status = Status.MISSING if no_docker else Status.OK
        detail = no_docker or "the engine answers"
        yield Finding("docker engine", status, detail, _docker_fix(), wanting_docker)
    if wanting_sandbox:
        yield _check_sandbox(config, wanting_sandbox)


def _why_no_docker() -> str | None:
    closed = _why_socket_is_closed()
    return closed if closed is not None else _why_engine_is_silent()


def _why_socket_is_closed() -> str | None:
    """Looked at before the SDK is asked, which blurs the reason and leaks the socket."""
    if sys.platform == "win32":
        return None
    host = process_environment().get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(DEADLINE)
        try:
            probe.connect(host.removeprefix("unix://"))
        except PermissionError:
            return "the engine's socket is not open to this user"
        except OSError as e:
            return f"no engine answers at {host}: {e.strerror or e}"
    return None


def _why_engine_is_silent() -> str | None:
    try:
        import docker
        from docker.errors import DockerException
    except ImportError:
        return "the docker package is not installed"
    try:
        with contextlib.closing(docker.from_env(timeout=int(DEADLINE))) as client:
            client.ping()
    except (DockerException, OSError) as e:
        return f"the engine does not answer: {e}"
    return None


def _docker_fix() -> str:
    if sys.platform == "linux":
        return (
            "install and start it: https://docs.docker.com/engine/install, sudo systemctl start"
            " docker; let this user in: sudo usermod -aG docker $USER, then log in again"
        )
    return "install and start Docker Desktop: https://docs.docker.com/get-docker"


def _check_sandbox(config: Config, names: tuple[str, ...]) -> Finding:
    """The self-test that the servers themselves start with decides."""
    verdicts = _sandbox_verdicts(config, config.active[names[0]])
    if isinstance(verdicts, str):
        return Finding("sandbox", Status.MISSING, verdicts, _sandbox_fix(), names)
    return judged(verdicts, names)


def judged(verdicts: list[dict[str, Any]], names: tuple[str, ...]) -> Finding:
    """What the self-tests of the sandboxes, the best one first, mean for the servers."""
    passed = [v for v in verdicts if not v["weaknesses"]]
    failed = "; ".join(
        f"{_way(v)}: {', '.join(v['weaknesses'])}" for v in verdicts if v["weaknesses"]
    )
    if not passed:
        detail = failed or "neither bubblewrap nor a Docker engine with the image is there"
        return Finding("sandbox", Status.MISSING, detail, _sandbox_fix(), names)
    best = passed[0]
    held = ", ".join(f"{key}: {value}" for key, value in best["isolation"].items())
    detail = f"{best['backend']} passed its self-test ({held})" + (f"; {failed}" if failed else "")
    unlimited = best["isolation"].get("processors") == "not limited"
    status = Status.WARNING if unlimited else Status.OK
    return Finding("sandbox", status, detail, PROCESSORS if unlimited else "", names)


def _way(verdict: dict[str, Any]) -> str:
    """The backend, and which of its ways where it has several."""
    way = verdict["isolation"].get("container")
    return f"{verdict['backend']} ({way})" if way else str(verdict["backend"])


def _sandbox_verdicts(config: Config, server: ServerConfig) -> list[dict[str, Any]] | str:
    """What `python -m servers.sandboxing` says in that server's environment, or why it can't."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "servers.sandboxing"],
            cwd=server.cwd,
            env=scripts.environment(config, server),
            capture_output=True,
            timeout=SANDBOX_DEADLINE,
            check=False,
        )
        if done.returncode == 0:
            found: list[dict[str, Any]] = json.loads(done.stdout)
            return found
    except (OSError, ValueError, subprocess.TimeoutExpired) as e:
        return f"the sandbox's self-test can't be run: {e}"
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"the sandbox's self-test can't be run: {said[-1] if said else 'no reason given'}"


def _sandbox_fix() -> str:
    if sys.platform == "linux":
        return (
            "install bubblewrap (apt install bubblewrap) and allow user namespaces (sysctl"
            " kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu), or install Docker and make"
            " its image (python -m servers.sandboxing.image), or get one (mcpcp sandbox pull)"
        )
    return "install Docker, and get it an image for sandboxes: mcpcp sandbox pull"


def _check_model(config: Config) -> Iterator[Finding]:
    """The chat service's language model; the fleet is whole without one."""
    service = config.chat_service
    if service is None:
        return
    from mcpcp.chat.llm import look
    from mcpcp.config.llm import LlmSettings, chat_environment

    own = {name: value for name, value in service.environment().items() if value}
    names = (service.name,)
    try:
        settings = LlmSettings.of({**chat_environment(config.root), **own})
    except ConfigError as e:
        yield Finding("language model", Status.WARNING, str(e), "correct that variable", names)
        return
    wrong = look(settings)
    if wrong is None:
        found = f"{settings.model} at {settings.shown_url}"
        yield Finding("language model", Status.OK, found, "", names)
    else:
        yield Finding("language model", Status.WARNING, wrong[0], wrong[1], names)


def _check_ports(config: Config) -> Iterator[Finding]:
    each = (one for server in config.active.values() for one in server.each())
    ports = {one.port: one.name for one in each if one.port is not None}
    ports[config.gateway.port] = "gateway"
    if config.monitoring.port is not None:
        ports[config.monitoring.port] = "supervisor"
    ours = _fleet_pids(config)
    listeners = _listeners()
    for port, name in sorted(ports.items()):
        pid = listeners.get(port, -1)
        if port not in listeners:
            yield Finding(f"port {port}", Status.OK, "is free", "", (name,))
        elif pid in ours:
            yield Finding(
                f"port {port}", Status.OK, f"is held by our fleet, pid {pid}", "", (name,)
            )
        else:
            fix = "stop that program, or change the port in the config"
            yield Finding(f"port {port}", Status.MISSING, f"in use by {_who(pid)}", fix, (name,))


def _check_pins(config: Config) -> Iterator[Finding]:
    """Tools that changed since they were approved, as far as the gateway has seen."""
    try:
        waiting = open_book(config).waiting()
    except ConfigError as e:
        yield Finding("pins", Status.MISSING, str(e), "repair the file, or delete it")
        return
    except Unavailable as e:
        yield Finding("pins", Status.MISSING, str(e))
        return
    changed = [w.name for w in waiting if w.name.server in config.active]
    if not changed:
        return
    names = ", ".join(visible(f"{name.server}:{name.tool}") for name in changed[:MOST_NAMED])
    more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
    yield Finding(
        "tools",
        Status.WARNING,
        f"changed, and not approved: {names}{more}",
        "mcpcp tools diff, then mcpcp tools approve",
        tuple(sorted({name.server for name in changed})),
    )


def _fleet_pids(config: Config) -> set[int]:
    """The pids of this config's running fleet, with all their descendants."""
    import psutil

    try:
        with ControlClient.connect(runtime_dir(config.path), timeout=DEADLINE) as client:
            status = client.ask("status")
    except McpcpError:
        return set()
    pids = {p for row in status.get("servers", ()) if isinstance(p := row.get("pid"), int)}
    if isinstance(status.get("pid"), int):
        pids.add(status["pid"])
    for pid in tuple(pids):
        try:
            pids |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        except psutil.Error:
            continue
    return pids


def _listeners() -> Mapping[int, int]:
    """The local ports somebody listens on, and the pid of each, 0 where it can't be known."""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS shows other users' sockets to root only
        return _own_listeners()
    return {
        c.laddr.port: c.pid or 0 for c in connections if c.status == psutil.CONN_LISTEN and c.laddr
    }


def _own_listeners() -> Mapping[int, int]:
    import psutil

    found: dict[int, int] = {}
    for process in psutil.process_iter():
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        found |= {c.laddr.port: process.pid for c in connections if c.status == "LISTEN"}
    return found


def _who(pid: int) -> str:
    import psutil

    if not pid:
        return "a program of another user"
    try:
        return f"pid {pid}: {' '.join(psutil.Process(pid).cmdline())[:200]}"
    except psutil.Error:
        return f"pid {pid}"
