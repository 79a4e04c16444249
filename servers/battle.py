"""Battles: agents report how a battle goes and how it ended; nothing that was reported is lost.

Environment: BACKEND_URL (http://localhost:9000) is told of every event; BATTLE_LOG_DIR
(data/battles under the working directory) keeps the events that it has not accepted yet;
BATTLE_PATIENCE is how many seconds a report waits for the backend before it is told that it is
queued (3; 1 where another process delivers from the same log).
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: use the package that this very file belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import AfterValidator, BaseModel, Field

from servers.battle_log.backend import Backend, BackendUrlError
from servers.battle_log.delivery import Delivery, Patience
from servers.battle_log.journal import Event, Journal
from servers.serving import add_echo, fail, serve, setting

logger = logging.getLogger(__name__)

DEFAULT_BACKEND = "http://localhost:9000"
DEFAULT_LOG = "data/battles"


def check_battle_id(battle_id: str) -> str:
    """Printable, and no path: neither a separator nor a folder's dots."""
    if not battle_id.isprintable() or battle_id != battle_id.strip():
        raise ValueError("a battle_id has no control characters and no space around it")
    if "/" in battle_id or "\\" in battle_id or not battle_id.strip("."):
        raise ValueError("a battle_id is a name, not a path")
    return battle_id


BattleId = Annotated[
    str,
    Field(min_length=1, max_length=128, description="which battle; a name, not a path"),
    AfterValidator(check_battle_id),
]
Message = Annotated[str, Field(max_length=65_536, description="what happened, in a sentence")]
Reporter = Annotated[str, Field(max_length=256, description="who reports it, such as an agent")]
Detail = Annotated[
    dict[str, Any] | str | None, Field(description="anything more, as an object or text")
]
Markdown = Annotated[
    str | None, Field(max_length=1_000_000, description="the same for people, in Markdown")
]
Winner = Annotated[Literal["green", "blue", "red", "draw"], Field(description="who won")]

REPORTS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
)


class Recorded(BaseModel):
    """What became of a report."""

    status: Literal["delivered", "queued"] = Field(
        description="delivered: the backend has it; queued: it is kept and delivered later"
    )
    event_id: str = Field(description="the backend gets it too and can tell a repeat by it")
    message: str
    reason: str | None = Field(default=None, description="why it is not delivered yet")


def battle_server(delivery: Delivery) -> MCPServer[Any]:
    """The server and its tools over one delivery."""
    server: MCPServer[Any] = MCPServer(
        "battle",
        title="Battle reports",
        description="Reports the progress and the end of battles to the backend, losing none.",
        instructions=(
            "Report each step with update_battle_process and the end, once, with "
            "report_on_battle_end. A report that is 'queued' is safe: do not repeat it."
        ),
    )
    add_echo(server)

    @server.tool(title="Report progress", annotations=REPORTS)
    async def update_battle_process(
        battle_id: BattleId,
        message: Message,
        reported_by: Reporter,
        detail: Detail = None,
        markdown_content: Markdown = None,
    ) -> Recorded:
        """Report progress in a battle."""
        more = {"detail": detail, "markdown_content": markdown_content}
        body = _body(message, reported_by, is_result=False) | _given(more)
        return await _report(delivery, battle_id, body)

    @server.tool(title="Report the end", annotations=REPORTS)
    async def report_on_battle_end(
        battle_id: BattleId,
        message: Message,
        winner: Winner,
        reported_by: Reporter,
        detail: Detail = None,
        markdown_content: Markdown = None,
    ) -> Recorded:
        """Report how a battle ended and who won."""
        more = {"winner": winner, "detail": detail, "markdown_content": markdown_content}
        body = _body(message, reported_by, is_result=True) | _given(more)
        return await _report(delivery, battle_id, body)

    return server


def _body(message: str, reported_by: str, *, is_result: bool) -> dict[str, Any]:
    return {
        "is_result": is_result,
        "message": message,
        "reported_by": reported_by,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


async def _report(delivery: Delivery, battle_id: str, body: Mapping[str, Any]) -> Recorded:
    event = Event(uuid.uuid4().hex, battle_id, body)
    try:
        outcome = await delivery.submit(event)
    except ValueError as e:
        raise ToolError(f"the event was NOT recorded, it is no valid JSON: {e}") from e
    except OSError as e:
        logger.exception("an event could not be recorded")
        reason = e.strerror or type(e).__name__
        raise ToolError(f"the event was NOT recorded, the battle log fails: {reason}") from e
    if outcome.status == "refused":
        raise ToolError(f"the event was not accepted: {outcome.reason}")
    if outcome.status == "delivered":
        said = "delivered to the backend"
    else:
        said = f"kept safe and delivered later: {outcome.reason}"
    return Recorded(
        status=outcome.status, event_id=event.event_id, message=said, reason=outcome.reason
    )


def patience() -> Patience:
    """What the environment says; raises ValueError."""
    text = setting("BATTLE_PATIENCE", "")
    if not text:
        return Patience()
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"not {text!r}")
    return Patience(seconds, seconds)


def main() -> None:
    """Serve battles as the command line and the environment say."""
    try:
        backend = Backend(setting("BACKEND_URL", DEFAULT_BACKEND))
        waits = patience()
    except BackendUrlError as e:
        fail("battle", str(e), 2)
    except ValueError as e:
        fail("battle", f"BATTLE_PATIENCE is a number of seconds above 0: {e}", 2)
    journal = Journal(Path(setting("BATTLE_LOG_DIR", DEFAULT_LOG)).absolute())
    delivery = Delivery(journal, backend, waits)
    serve(
        battle_server(delivery),
        port=9004,
        health=delivery.health,
        background=delivery.running,
    )


if __name__ == "__main__":
    main()
