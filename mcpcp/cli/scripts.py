"""The project's own scripts in a config: which servers run them, and in which environment."""

from __future__ import annotations

from pathlib import Path

from mcpcp.config import Config, ServerConfig, process_environment
from mcpcp.supervisor.specs import DATA_VARIABLE

SANDBOXED = ("python_code.py", "sandbox.py", "code_executor.py")
"""Those that run code, by file name."""

CONTAINERS = ("docker_commands.py",)
"""Those that are about containers."""


def running(config: Config, scripts: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the servers that run one of them."""
    servers = config.active.values()
    return tuple(s.name for s in servers if any(Path(a).name in scripts for a in s.args))


def environment(config: Config, server: ServerConfig) -> dict[str, str]:
    """As the supervisor would start it, for programs that look at what it will see."""
    data = {DATA_VARIABLE: str(config.data_dir)}
    return {**process_environment(), **data, **server.environment()}
