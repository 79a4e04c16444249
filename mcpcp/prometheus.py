"""prometheus.yml from the fleet's config: who is scraped, where, and who gets the token. (pure)"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final
from urllib.parse import urlsplit

from mcpcp.config import Config, ServerConfig
from mcpcp.names import server_of

_ANYWHERE: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  (listened at, never asked at)
_SCHEME_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """One address, the labels of what comes from there, and the path where it is not /metrics."""

    address: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """Targets that are asked in the same way; only programs of ours get the scrape token."""

    name: str
    targets: tuple[Target, ...]
    trusted: bool = True


def jobs(config: Config, host: str) -> tuple[Job, ...]:
    """What there is to scrape; `host` is where Prometheus reaches what listens on this machine."""
    gateway = _at(config.gateway.host, config.gateway.port, host)
    monitoring = config.monitoring
    supervisor = monitoring.port and _at(monitoring.host, monitoring.port, host)
    servers = [one for s in config.active.values() if s.metrics is not None for one in s.each()]
    made = (
        Job("mcpcp-gateway", (Target(gateway),)),
        Job("mcpcp-supervisor", (Target(supervisor),) if supervisor else ()),
        Job("mcpcp-server", tuple(_server(s, host) for s in servers if s.own)),
        Job("mcpcp-other", tuple(_server(s, host) for s in servers if not s.own), trusted=False),
    )
    return tuple(job for job in made if job.targets)


def render(made: Iterable[Job], token_file: PurePath, rules: PurePath) -> str:
    """The file's text; paths are absolute, or start at the file's own folder."""
    return "\n".join(_lines(made, token_file, rules)) + "\n"


def _lines(made: Iterable[Job], token_file: PurePath, rules: PurePath) -> Iterator[str]:
    yield "# Made by `mcpcp monitoring config` from mcpcp.json: run it again when that has changed."
    yield "global:"
    yield "  scrape_interval: 5s"
    yield "  evaluation_interval: 5s"
    yield "rule_files:"
    yield f"  - {_quoted(rules.as_posix())}"
    yield "scrape_configs:"
    for job in made:
        yield f"  - job_name: {job.name}"
        if job.trusted:
            yield "    authorization:"
            yield f"      credentials_file: {_quoted(token_file.as_posix())}"
        yield "    static_configs:"
        for target in job.targets:
            yield f"      - targets: [{_quoted(target.address)}]"
            if target.labels:
                pairs = (f"{name}: {_quoted(value)}" for name, value in target.labels.items())
                yield f"        labels: {{{', '.join(pairs)}}}"


def _quoted(text: str) -> str:
    """A YAML scalar: JSON's strings are YAML's double-quoted ones."""
    return json.dumps(text)


def _at(listens_at: str, port: int, host: str) -> str:
    """The address to ask: a loopback or open listener is reached where Prometheus finds us."""
    near = listens_at in _ANYWHERE or listens_at in ("127.0.0.1", "localhost", "::1")
    reached = host if near else listens_at
    return f"[{reached}]:{port}" if ":" in reached else f"{reached}:{port}"


def _server(server: ServerConfig, host: str) -> Target:
    labels = {"server": server_of(server.name)}
    if server.metrics != "/metrics":
        labels["__metrics_path__"] = server.metrics or ""
    if server.url is None:
        return Target(_at("127.0.0.1", server.port or 0, host), labels)
    parts = urlsplit(server.url)
    if parts.scheme != "http":
        labels["__scheme__"] = parts.scheme
    name = parts.hostname or ""
    return Target(_at(name, parts.port or _SCHEME_PORTS[parts.scheme], name), labels)
