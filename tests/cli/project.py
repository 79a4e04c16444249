"""A small project in a folder of the test's own, and the command line over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from mcpcp import keyring
from mcpcp.cli import cli

CONFIG: dict[str, Any] = {
    "mcpServers": {"mcp1": {"command": "python", "args": ["-V"]}},
    "agents": {
        "me": {"allow": {"mcp1": ["*"]}},
        "claude": {"allow": {"*": ["*"]}},
    },
}


class Project:
    """A config and its keys; `run` is the command line in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "mcpcp.json"
        self.keys = root / "keys"
        self.write(CONFIG)

    def write(self, config: Any) -> None:
        """Replace the config."""
        self.config.write_text(json.dumps(config, indent=2) + "\n")

    def make_keys(self) -> str:
        """The first key, of a size that is made fast."""
        return keyring.ensure(self.keys, bits=2048) or ""

    def run(self, *words: str, stdin: str | None = None) -> Result:
        """`mcpcp WORDS --config ...`; errors of ours stay exceptions in the result."""
        line = [*words, "--config", str(self.config)]
        return CliRunner().invoke(cli, line, input=stdin)

    def ok(self, *words: str, stdin: str | None = None) -> str:
        """What a command that succeeds says on stdout."""
        result = self.run(*words, stdin=stdin)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def error(self, *words: str) -> str:
        """The message of a command that fails."""
        result = self.run(*words)
        assert result.exit_code != 0
        return str(result.exception) if result.exit_code == 1 else result.stderr
