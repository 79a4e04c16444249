"""From the config file to a `Config`: reads, checks every key, then what the keys say together."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mcpcp import limits
from mcpcp.config.findings import Findings, below, describe, suggest
from mcpcp.config.keys import FILE
from mcpcp.config.origin import is_own, keeps
from mcpcp.config.places import PROJECT
from mcpcp.config.reading import (
    expand,
    parse_json,
    read_dotenv,
    read_env_file,
    read_text,
    report_repeated,
)
from mcpcp.config.values import (
    PYTHON,
    ChatConfig,
    Config,
    GatewayConfig,
    HealthCheck,
    Limits,
    LogsConfig,
    MonitoringConfig,
    PinPolicy,
    RestartPolicy,
    ServerConfig,
    ToolRules,
    Transport,
)
from mcpcp.errors import ConfigError
from mcpcp.policy import Allowlist, matches

LAST_PORT = 65535
GATEWAY = "gateway"
"""What the fleet calls the gateway among its processes, so no server may be called so."""


def load(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check the config file; raises ConfigError that names every problem at once.

    `.env` beside it fills in for variables that the environment does not have.
    """
    return loads(read_text(path), path, environ)


def loads(text: str, path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """`load` of a file that would hold `text`: what an edit would mean before it is written."""
    path = path.resolve()
    found = Findings(path)
    raw = parse_json(text, path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold an object, found {describe(raw)}")
    report_repeated(raw, "", found)
    env = {**read_dotenv(path.parent), **(os.environ if environ is None else environ)}
    tree = expand(raw, "", env, found)
    config = _build(path, FILE.read_parts(tree, "", found), found)
    config = replace(config, state_url=_state_url(env, found))
    _check_together(config, _Named.of(tree), found)
    found.check()
    return replace(config, warnings=tuple(found.warnings))


@dataclass(frozen=True, slots=True)
class _Named:
    """The names that the file has, those of entries with problems too."""

    servers: frozenset[str]
    agents: frozenset[str]

    @classmethod
    def of(cls, tree: Any) -> _Named:
        sections = (tree.get(key) for key in ("mcpServers", "agents"))
        return cls(*(frozenset(s if isinstance(s, dict) else ()) for s in sections))


def _build(path: Path, values: Mapping[str, Any], found: Findings) -> Config:
    root = path.parent
    logs = LogsConfig(**values.get("logs", {}))
    servers = {
        name: _told_how_to_log(_server(name, entry, root, found), logs)
        for name, entry in values.get("mcpServers", {}).items()
    }
    agents = values.get("agents", {})
    return Config(
        path=path,
        servers=servers,
        gateway=_gateway(values.get("gateway", {})),
        agents={name: Allowlist.of(agent["allow"]) for name, agent in agents.items()},
        agent_limits={
            n: limits.of(agent["limits"]) for n, agent in agents.items() if "limits" in agent
        },
        agent_search={n: agent["search"] for n, agent in agents.items() if "search" in agent},
        chat=_chat(values.get("chat", {}), agents, found),
        keys_dir=_resolve(root, values.get("keys_dir", "keys"), "keys_dir", found),
        data_dir=(data_dir := _resolve(root, values.get("data_dir", "data"), "data_dir", found)),
        monitoring=_monitoring(values.get("monitoring", {}), root, data_dir, found),
        logs=logs,
    )


def _state_url(env: Mapping[str, str], found: Findings) -> str | None:
    """The Redis that gateways share; a variable and no key, since it may hold a password."""
    url = env.get("STATE_URL") or None
    if url is not None and urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        found.problem(
            "the variable STATE_URL",
            "must name a Redis: redis://HOST:6379/0, rediss:// with TLS, or unix:///PATH",
        )
        return None
    return url


def _resolve(root: Path, text: str, at: str, found: Findings) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # there is no such user
        found.problem(at, f"whose home is meant by {describe(text)}?")
        path = Path()
    return Path(os.path.normpath(root / path))


def _gateway(values: Mapping[str, Any]) -> GatewayConfig:
    audit = values.get("audit", {})
    plain = {name: value for name, value in values.items() if name != "audit"}
    if "required" in audit:
        plain["audit_required"] = audit["required"]
    if "max_size" in audit:
        plain["audit_max_bytes"] = int(audit["max_size"])
    return GatewayConfig(**plain)


def _chat(values: Mapping[str, Any], agents: Mapping[str, Any], found: Findings) -> ChatConfig:
    chat = ChatConfig(**values)
    if "agent" in values and chat.agent not in agents:
        found.problem(
            "chat.agent", f"no agent {describe(chat.agent)}; {suggest(chat.agent, agents)}"
        )
    return chat


def _told_how_to_log(server: ServerConfig, logs: LogsConfig) -> ServerConfig:
    """The project's own programs log as the config says, unless their entry says otherwise."""
    if not server.own or logs == LogsConfig():
        return server
    settings = {"MCPCP_LOG_FORMAT": logs.format, "MCPCP_LOG_LEVEL": logs.level}
    return replace(server, env={**settings, **server.env})


def _monitoring(
    values: Mapping[str, Any], root: Path, data_dir: Path, found: Findings
) -> MonitoringConfig:
    given = values.get("token_file")
    at = "monitoring.token_file"
    path = data_dir / "scrape.token" if given is None else _resolve(root, given, at, found)
    return MonitoringConfig(**{**values, "token_file": path})


def _server(name: str, v: Mapping[str, Any], root: Path, found: Findings) -> ServerConfig:
    at = below("mcpServers", name)
    transport = _transport(v, at, found)
    _check_shape(v, transport, at, found)
    cwd = _resolve(root, v.get("cwd", "."), below(at, "cwd"), found)
    own = transport != "service" and _is_project_script(v, cwd)
    ours = own or (v.get("command") in PYTHON and v.get("args", ())[:2] in _OWN_PROGRAMS)
    return ServerConfig(
        name=name,
        transport=transport,
        cwd=cwd,
        env={**_env_file(v, root, at, found), **v.get("env", {})},
        restart=RestartPolicy(**v.get("restart", {})),
        health=HealthCheck(**{"path": "/health" if own else None, **v.get("health", {})}),
        metrics=v.get("metrics", "/metrics" if ours and transport != "stdio" else None),
        own=ours,
        limits=_limits(v.get("limits", {})),
        prefix=v.get("prefix", name),
        tools=_tools(v, at, found),
        pin=v.get("pin") or _default_pin(v, cwd, root),
        disabled=v.get("disabled", False) or not v.get("enabled", True) or bool(v.get("unless")),
        unneeded=bool(v.get("unless")),
        **{key: v[key] for key in _AS_THEY_ARE if key in v},
    )


_OWN_PROGRAMS = (("-m", "mcpcp"), ["-m", "mcpcp"])
"""How a part of mcpcp itself, as the chat service, is started beside the tool servers."""

_AS_THEY_ARE = (
    "command",
    "args",
    "url",
    "headers",
    "port",
    "replicas",
    "depends_on",
    "calls",
    "timeout",
    "sessions",
    "max_sessions",
    "session_idle",
    "concurrency",
)


def _transport(v: Mapping[str, Any], at: str, found: Findings) -> Transport:
    given: Transport | None = v.get("type")
    if "url" in v:
        if given in ("stdio", "service"):
            found.problem(below(at, "type"), f"{given} needs a command, and here is a url")
        ends_in_sse = urlsplit(v["url"]).path.rstrip("/").endswith("/sse")
        return given or ("sse" if ends_in_sse else "http")
    return given or ("sse" if "port" in v else "stdio")


def _check_shape(v: Mapping[str, Any], transport: str, at: str, found: Findings) -> None:
    """A server is a command with a port, a command without one, or a url: nothing in between."""
    if ("command" in v) == ("url" in v):
        found.problem(at, 'must have either "command" or "url"')
    elif "url" in v:
        _check_remote(v, at, found)
    elif transport == "stdio":
        _check_stdio(v, at, found)
    elif "port" not in v:
        found.problem(at, f'a command of type {transport} needs a "port"')
    if v.get("replicas", 1) > 1:
        _check_replicas(v, transport, below(at, "replicas"), found)
    if v.get("timeout", 0) >= 1000 and isinstance(v["timeout"], float):
        found.warn(below(at, "timeout"), f"is {v['timeout']:g} seconds; some clients mean ms")


def _check_replicas(v: Mapping[str, Any], transport: str, at: str, found: Findings) -> None:
    """Where calls can be spread, and any process answers them alike."""
    if "url" in v:
        found.problem(at, "are not ours to start: give the url a name with several addresses")
    elif transport == "sse":
        found.problem(at, 'need "type": "http": over sse all calls share one stream to one process')
    elif transport == "stdio":
        found.problem(at, 'need a port and "type": "http"; see also "sessions": "per_client"')
    elif transport == "service":
        found.problem(at, "are for MCP servers: nothing spreads what is asked of a service")
    elif (kept := keeps(v.get("args", ()))) is not None:
        found.problem(at, f"do not work here: {kept}")


def _check_remote(v: Mapping[str, Any], at: str, found: Findings) -> None:
    if "port" in v:
        found.problem(below(at, "port"), 'belongs to a "command"; a "url" holds its own')
    process = (
        "args",
        "env",
        "envFile",
        "cwd",
        "depends_on",
        "calls",
        "restart",
        "health",
        "limits",
    )
    for key in process:
        if v.get(key):
            found.warn(below(at, key), "does nothing here: a url is not ours to start")


def _check_stdio(v: Mapping[str, Any], at: str, found: Findings) -> None:
    if "port" in v:
        found.problem(below(at, "port"), "a server of type stdio has none: make it sse or http")
    for key in ("health", "depends_on", "calls", "metrics"):
        if v.get(key):
            found.problem(below(at, key), "works for servers with a port only")
    if v.get("headers"):
        found.problem(below(at, "headers"), 'belong to a "url"')


def _env_file(v: Mapping[str, Any], root: Path, at: str, found: Findings) -> dict[str, str]:
    if "envFile" not in v or v.get("disabled"):
        return {}
    path = _resolve(root, v["envFile"], below(at, "envFile"), found)
    if not path.is_file():
        found.problem(below(at, "envFile"), f"{path} does not exist")
        return {}
    try:
        return read_env_file(path)
    except ConfigError as e:
        found.problem(below(at, "envFile"), str(e))
        return {}


def _is_project_script(v: Mapping[str, Any], cwd: Path) -> bool:
    """Whether it runs one of the project's own servers, which have /health and /metrics."""
    args = v.get("args", ())
    if v.get("command") not in PYTHON or not args:
        return False
    if args[0] == "-m":
        return len(args) > 1 and args[1].startswith("servers.")
    script = (cwd / args[0]).resolve()
    return (PROJECT / "servers").resolve() in script.parents


def _default_pin(v: Mapping[str, Any], cwd: Path, root: Path) -> PinPolicy:
    """Whose tools may change unasked: those of scripts that the config's own author edits."""
    own = _is_project_script(v, cwd) or is_own(v.get("command"), v.get("args", ()), cwd, root)
    return "report" if own else "quarantine"


def _limits(values: Mapping[str, Any]) -> Limits:
    memory = values.get("memory")
    return Limits(memory_bytes=None if memory is None else int(memory))


def _tools(v: Mapping[str, Any], at: str, found: Findings) -> ToolRules:
    tools = v.get("tools", {})
    if "allow" in tools and "enabledTools" in v:
        found.problem(below(at, "enabledTools"), 'says the same as "tools.allow", also there')
    rename: Mapping[str, str] = tools.get("rename", {})
    for new in {n for n in rename.values() if list(rename.values()).count(n) > 1}:
        found.problem(below(at, "tools.rename"), f"two tools are renamed to {describe(new)}")
    return ToolRules(
        allow=tools.get("allow", v.get("enabledTools", ("*",))),
        deny=(*tools.get("deny", ()), *v.get("disabledTools", ())),
        rename=rename,
        describe=tools.get("describe", {}),
    )


def _check_together(config: Config, named: _Named, found: Findings) -> None:
    """What no key says alone: ports, names, dependencies, agents."""
    _check_names(config, found)
    _check_ports(config, found)
    _check_dependencies(config, named, found)
    _check_agents(config, named, found)
    _check_anonymous(config, named, found)
    for server in config.active.values():
        if server.command is not None and not server.cwd.is_dir():
            found.warn(below(f"mcpServers.{server.name}", "cwd"), f"{server.cwd} is not a folder")


def _check_names(config: Config, found: Findings) -> None:
    seen: dict[str, str] = {}
    for name in config.servers:
        at = below("mcpServers", name)
        if name.lower() == GATEWAY:
            found.problem(at, "is what the fleet calls its own gateway: take another name")
        if name.lower() in seen:  # log files of both would be one where case is ignored
            found.problem(at, f'differs from "{seen[name.lower()]}" only in case')
        seen[name.lower()] = name


def _check_ports(config: Config, found: Findings) -> None:
    owners = {config.gateway.port: "the gateway"}
    if config.monitoring.port in owners:
        found.problem("monitoring.port", f"{config.monitoring.port} is the gateway's port already")
    elif config.monitoring.port is not None:
        owners[config.monitoring.port] = "the supervisor's metrics"
    for server in config.active.values():
        at = below(below("mcpServers", server.name), "port")
        ports = [one.port for one in server.each() if one.port is not None]
        if ports and ports[-1] > LAST_PORT:
            found.problem(at, f"leaves no room for {server.replicas} replicas below {LAST_PORT}")
        for port in ports:
            if port in owners:
                found.problem(at, f"{port} is the port of {owners[port]} already{_why(server)}")
            owners.setdefault(port, server.name)


def _why(server: ServerConfig) -> str:
    if server.replicas == 1 or server.port is None:
        return ""
    last = server.port + server.replicas - 1
    return f"; {server.replicas} replicas need {server.port} to {last}"


def _check_dependencies(config: Config, named: _Named, found: Findings) -> None:
    before = len(found.problems)
    for server in config.active.values():
        for i, needed in enumerate(server.depends_on):
            at = below(below("mcpServers", server.name), f"depends_on[{i}]")
            if needed not in named.servers:
                found.problem(at, f"no server {describe(needed)}; {suggest(needed, named.servers)}")
            elif not _can_be_waited_for(config.servers.get(needed)):
                found.problem(at, f"{needed} is not one that is started here with a port")
        _check_calls(server, config, named, found)
    if len(found.problems) == before:
        for cycle in _cycles(config):
            at = below(below("mcpServers", cycle[0]), "depends_on")
            found.problem(at, "goes in a circle: " + " -> ".join(cycle))


def _check_calls(server: ServerConfig, config: Config, named: _Named, found: Findings) -> None:
    for i, called in enumerate(server.calls):
        at = below(below("mcpServers", server.name), f"calls[{i}]")
        other = config.servers.get(called)
        if called not in named.servers:
            found.problem(at, f"no server {describe(called)}; {suggest(called, named.servers)}")
        elif other is not None and other.replicas > 1:
            found.problem(at, f"{called} has replicas, and a server can call one process only")
        elif other is not None and not (_can_be_waited_for(other) and other.speaks_mcp):
            found.problem(at, f"{called} is not an MCP server that is started here with a port")


def _can_be_waited_for(server: ServerConfig | None) -> bool:
    if server is None or server.unneeded:
        return True  # it has problems of its own, or is done without
    return not server.disabled and server.managed_by == "supervisor"


def _cycles(config: Config) -> Iterator[list[str]]:
    """A circle of dependencies, if there is any, from its first server back to it."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        server = config.servers.get(name)
        for needed in server.depends_on if server else ():
            circle = visit(needed, [*way, name])
            if circle:
                return circle
        done.add(name)
        return None

    for name in config.active:
        circle = visit(name, [])
        if circle:
            yield circle
            return


def _check_agents(config: Config, named: _Named, found: Findings) -> None:
    for agent, allow in config.agents.items():
        for pattern, _ in allow.rules:
            if not any(matches(pattern, server) for server in named.servers):
                at = below(below(below("agents", agent), "allow"), pattern)
                found.warn(at, f"names no server; {suggest(pattern, named.servers)}")
    for agent, held_to in config.agent_limits.items():
        for pattern, _ in held_to.arguments:
            server_pattern = pattern.partition(":")[0]
            if not any(matches(server_pattern, server) for server in named.servers):
                at = below(below(f"{below('agents', agent)}.limits", "arguments"), pattern)
                found.warn(at, f"names no server; {suggest(server_pattern, named.servers)}")


def _check_anonymous(config: Config, named: _Named, found: Findings) -> None:
    agent = config.gateway.anonymous
    if agent is None:
        return
    if agent not in named.agents:
        hint = suggest(agent, named.agents)
        found.problem("gateway.anonymous", f"no agent {describe(agent)}; {hint}")
    if not _is_loopback(config.gateway.host):
        found.problem(
            "gateway.anonymous",
            f"{config.gateway.host} can be reached from outside: calls there need a token",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
