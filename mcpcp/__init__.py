"""One entry for every MCP server you run."""

__version__ = "0.1.0"
