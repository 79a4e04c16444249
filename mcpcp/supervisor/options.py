"""What the starter of a fleet asks for, and what the supervisor tells whoever shows the fleet."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from mcpcp.config import Config
from mcpcp.fleet import Snapshot

Ui: TypeAlias = Literal["table", "plain", "json", "none"]


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """One fleet as its starter wants it; `only` names servers, `idle_exit` is in minutes."""

    config: Path
    only: tuple[str, ...] | None = None
    ui: Ui = "table"
    background: bool = False
    idle_exit: float | None = None

    def to_wire(self) -> dict[str, Any]:
        """As JSON-able dicts."""
        return {
            "config": str(self.config),
            "only": None if self.only is None else list(self.only),
            "ui": self.ui,
            "background": self.background,
            "idle_exit": self.idle_exit,
        }

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> FleetOptions:
        """The reverse of `to_wire`."""
        only = None if data["only"] is None else tuple(data["only"])
        return cls(**{**data, "config": Path(data["config"]), "only": only})


class View(Protocol):
    """What shows a fleet to a person or a program.

    The three methods are called from the supervisor's event loop and return at once: drawing and
    writing happen in the view's own thread, which may fall behind and drop.
    """

    def update(self, snapshot: Snapshot) -> None:
        """Something changed; only the newest snapshot matters."""

    def log(self, source: str, line: str) -> None:
        """Process `source` (or "supervisor") wrote `line`, without its line end."""

    def finish(self, summary: str) -> None:
        """The fleet has stopped; `summary` is the last line to show."""


OpenView: TypeAlias = Callable[[Ui, Config, Callable[[], None]], AbstractContextManager[View]]
"""`view.open_view(ui, config, on_lost)`: `on_lost` may be called, from any thread, when the
terminal is gone (EIO); the fleet then stops as it does on SIGHUP."""
