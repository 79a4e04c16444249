"""The arguments that tools which run code have in common, as agents read of them.

Above: the tool servers.
"""

from __future__ import annotations

from typing import Annotated, Final

from mcp_types import ToolAnnotations
from pydantic import AfterValidator, Field

RUNS_CODE: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
"""What is told of such a tool: nothing outlives it but a session's files."""

Code = Annotated[str, Field(description="Python source; may end in an expression")]
Timeout = Annotated[float | None, Field(description="seconds the code may take; usually 30", gt=0)]


def none_if_empty(name: str | None) -> str | None:
    """A name as it is meant: models like to fill in every argument there is."""
    return name or None


Session = Annotated[
    str | None,
    Field(description="a name of yours: files in /work are kept for later calls that give it"),
    AfterValidator(none_if_empty),
]
