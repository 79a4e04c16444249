"""State on files: shared by the processes of one machine."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mcpcp.errors import Unavailable
from mcpcp.files import write_atomically

logger = logging.getLogger(__name__)

CHECK_EVERY = 0.5
"""Seconds between two looks at files that another process may have changed."""

SETTLED = 2.0
"""Seconds after which a folder's time stamp can't hide a later change any more."""


class FileRevocations:
    """One small file a revoked token in a folder: atomic and shared by processes without a lock.

    Other processes' changes are seen within half a second. A folder that can't be read any more
    leaves the last good state in force; one that never could refuses to start.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._until: dict[str, float] = {}
        self._read: dict[str, str] = {}
        self._stamp: int | None = None
        self._next_check = 0.0
        try:
            self._reload()
        except OSError as e:
            raise Unavailable(f"the revocations in {folder} can't be read: {e.strerror}") from e

    def is_revoked(self, token_id: str) -> bool:
        """Whether `token_id` is refused, as of half a second ago at most."""
        if time.monotonic() >= self._next_check:
            self._refresh()
        return token_id in self._until

    def revoke(self, token_id: str, until: float) -> None:
        """Refuse `token_id` until `until`, and drop the records of tokens that ended meanwhile."""
        name = hashlib.sha256(token_id.encode()).hexdigest()[:32] + ".json"
        record = {"token_id": token_id, "until": until}
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self._folder / name, json.dumps(record).encode())
        self._reload()
        self._prune()

    def current(self) -> Mapping[str, float]:
        """The revoked token ids, and until when each record is kept."""
        self._refresh()
        return dict(self._until)

    def _refresh(self) -> None:
        self._next_check = time.monotonic() + CHECK_EVERY
        try:
            self._reload()
        except OSError:
            logger.exception("revocations in %s: the last good state stays in force", self._folder)

    def _reload(self) -> None:
        try:
            stamp = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return  # nothing was ever revoked, or the folder is gone: what was revoked stays so
        if stamp == self._stamp:
            return
        for path in self._folder.glob("*.json"):
            if path.name not in self._read:
                self._take(path)
        # A change within the clock's grain of this look would leave the same stamp: look again.
        settled = abs(time.time() - stamp / 1e9) > SETTLED
        self._stamp = stamp if settled else None

    def _take(self, path: Path) -> None:
        try:
            record = json.loads(path.read_bytes())
            token_id, until = str(record["token_id"]), float(record["until"])
        except FileNotFoundError:
            return  # pruned by another process between the listing and this read
        except (ValueError, KeyError, TypeError):
            logger.error("%s is not a revocation record", path)  # noqa: TRY400 - the cause says less
            return
        self._read[path.name] = token_id
        self._until[token_id] = until

    def _prune(self) -> None:
        now = self._clock()
        ended = {name for name, t in self._read.items() if self._until.get(t, 0.0) < now}
        for name in ended:
            (self._folder / name).unlink(missing_ok=True)
            self._until.pop(self._read.pop(name), None)
