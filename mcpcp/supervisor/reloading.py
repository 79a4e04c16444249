"""The config that is in force: the file's, as it was when it was last found good."""

from __future__ import annotations

import logging
from pathlib import Path

from mcpcp.config import Config, load
from mcpcp.errors import McpcpError
from mcpcp.supervisor.specs import ProcessSpec, left_out, plan
from mcpcp.supervisor.watch import FileWatch

logger = logging.getLogger(__name__)


class LiveConfig:
    """Reads the file, and follows it while the fleet runs; `only` are the servers that are wanted.

    Made, it raises ConfigError where the file is not good from the first.
    """

    def __init__(self, path: Path, only: tuple[str, ...] | None) -> None:
        self._only = only
        # Before the file is read: what is changed while the fleet comes up is a change too.
        self._watch = FileWatch(path, path.with_name(".env"))
        self.now: Config = load(path)
        """What is in force."""
        self.plan: dict[str, ProcessSpec] = plan(self.now, only)
        """The processes that it asks for."""
        self.error: str | None = None
        """Why the file, as it is now, is not in force."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """The servers that `only` keeps from being started."""
        return left_out(self.now, self._only)

    async def changed(self) -> bool:
        """Return after the next change of the file; whether what it says now is in force."""
        await self._watch.changed()
        try:
            config = load(self.now.path)
            planned = plan(config, self._only)
        except (McpcpError, OSError, ValueError) as error:
            self.error = str(error)
            logger.warning("the changed config is not used: %s", error)
            return False
        logger.info("the config has changed")
        self.now, self.plan, self.error = config, planned, None
        return True
