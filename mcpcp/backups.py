"""Copies of SQLite databases, taken and put back while somebody else has them open."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from mcpcp.errors import DataError

ENDING = ".db"
PATIENCE = 30.0
"""Seconds to wait for whoever writes."""


def databases(folder: Path) -> list[Path]:
    """The database files of a folder, by name."""
    return sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else []


def back_up(source: Path, target: Path) -> list[Path]:
    """Copy every database of `source`, each as it is at one moment, to the new folder `target`.

    The folder appears under its name only when it is complete. Raises DataError.
    """
    found = databases(source)
    if not found:
        raise DataError(f"{source} holds no database: was the shop ever started?")
    if target.exists():
        raise DataError(f"{target} is there already: name another folder")
    draft = target.with_name(target.name + ".partial")
    try:
        draft.mkdir(mode=0o700, parents=True)
        for database in found:
            _copy(database, draft / database.name)
        draft.rename(target)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise DataError(f"the backup to {target} failed: {error}") from error
    return [target / database.name for database in found]


def check(backup: Path) -> Sequence[Path]:
    """The databases of a backup, all of them sound; raises DataError before anything is touched."""
    found = databases(backup)
    if not found:
        raise DataError(f"{backup} holds no backup: name a folder that `data backup` made")
    for database in found:
        try:
            with contextlib.closing(_open(database)) as connection:
                verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.Error as error:
            raise DataError(f"{database} can't be read: {error}") from error
        if verdict != "ok":
            raise DataError(f"{database} is damaged: {verdict}")
    return found


def restore(backup: Path, target: Path) -> Sequence[Path]:
    """Put the databases of a backup in the place of those in `target`, each in one transaction.

    Whoever has one open sees it change as a whole. Raises DataError.
    """
    found = check(backup)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for database in found:
            _copy(database, target / database.name)
    except (OSError, sqlite3.Error) as error:
        raise DataError(f"restoring {backup} failed: {error}") from error
    return [target / database.name for database in found]


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        target.touch(mode=0o600)
    with (
        contextlib.closing(_open(source)) as reading,
        contextlib.closing(_open(target)) as writing,
    ):
        reading.backup(writing)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=PATIENCE)
