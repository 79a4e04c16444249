"""The config: one file for launcher, gateway and client, parsed once into frozen values.

`values` is what the rest of mcpcp works with. `keys` says which keys the file may have: parser,
JSON Schema and documentation all follow it. `parse.load` reads file and environment, `changes.diff`
says what a reload has to touch, `places` where a config and its fleet's runtime folder are.
"""

from mcpcp.config.changes import ConfigDiff, diff
from mcpcp.config.parse import load, loads
from mcpcp.config.places import (
    PROJECT,
    claude_desktop_config,
    find_config,
    process_environment,
    runtime_dir,
)
from mcpcp.config.values import (
    Config,
    GatewayConfig,
    HealthCheck,
    Limits,
    Manager,
    RestartPolicy,
    ServerConfig,
    ToolRules,
    Transport,
)

__all__ = [
    "PROJECT",
    "Config",
    "ConfigDiff",
    "GatewayConfig",
    "HealthCheck",
    "Limits",
    "Manager",
    "RestartPolicy",
    "ServerConfig",
    "ToolRules",
    "Transport",
    "claude_desktop_config",
    "diff",
    "find_config",
    "load",
    "loads",
    "process_environment",
    "runtime_dir",
]
