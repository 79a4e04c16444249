"""Our few constants of the protocol are the SDK's, though we never import it."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import mcp_types
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import version

import mcpcp
from mcpcp import jsonrpc, protocol

CODES = (
    "PARSE_ERROR",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "INVALID_PARAMS",
    "INTERNAL_ERROR",
    "CONNECTION_CLOSED",
    "REQUEST_TIMEOUT",
    "HEADER_MISMATCH",
    "UNSUPPORTED_PROTOCOL_VERSION",
)
PROGRAM = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted(m for m in sys.modules if m.partition(".")[0] in ("mcp", "mcp_types", "servers")))
"""


def test_error_codes_are_those_of_the_sdk() -> None:
    ours = {name: getattr(jsonrpc, name) for name in CODES}
    assert ours == {name: getattr(mcp_types, name) for name in CODES}


def test_keys_of_meta_are_those_of_the_sdk() -> None:
    assert protocol.META_VERSION == mcp_types.PROTOCOL_VERSION_META_KEY
    assert protocol.META_CLIENT_INFO == mcp_types.CLIENT_INFO_META_KEY
    assert protocol.META_CLIENT_CAPABILITIES == mcp_types.CLIENT_CAPABILITIES_META_KEY
    assert protocol.META_SERVER_INFO == mcp_types.SERVER_INFO_META_KEY
    assert protocol.META_SUBSCRIPTION == SUBSCRIPTION_ID_META_KEY


def test_versions_are_those_of_the_sdk() -> None:
    assert protocol.LEGACY_VERSIONS == version.HANDSHAKE_PROTOCOL_VERSIONS
    assert protocol.MODERN_VERSIONS == version.MODERN_PROTOCOL_VERSIONS


def test_nothing_of_ours_imports_the_sdk_or_the_servers() -> None:
    found = pkgutil.walk_packages(mcpcp.__path__, "mcpcp.")
    modules = [info.name for info in found if not info.name.endswith("__main__")]
    assert "mcpcp.frontends.http" in modules
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *modules],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert result.stdout.split() == []
