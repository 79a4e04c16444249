"""The config: one file for launcher, gateway and client, parsed once into frozen values.

`values` is what the rest of mcpcp works with. `keys` says which keys the file may have: parser,
JSON Schema and documentation all follow it. `parse.load` reads file and environment, `changes.diff`
says what a reload has to touch, `places` where a config and its fleet's runtime folder are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        ChatConfig,
        Config,
        GatewayConfig,
        HealthCheck,
        Limits,
        LogsConfig,
        Manager,
        MonitoringConfig,
        PinPolicy,
        RestartPolicy,
        ServerConfig,
        ToolRules,
        Transport,
    )

_MODULES = {
    "changes": ("ConfigDiff", "diff"),
    "parse": ("load", "loads"),
    "places": (
        "PROJECT",
        "claude_desktop_config",
        "find_config",
        "process_environment",
        "runtime_dir",
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the relay needs `places`, and must be up at once."""
    if name not in __all__:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'values')}"), name)


__all__ = [
    "PROJECT",
    "ChatConfig",
    "Config",
    "ConfigDiff",
    "GatewayConfig",
    "HealthCheck",
    "Limits",
    "LogsConfig",
    "Manager",
    "MonitoringConfig",
    "PinPolicy",
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
