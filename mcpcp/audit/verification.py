"""Whether a log is whole: the chain record by record, then the signed checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mcpcp.audit.chain import GENESIS, read_line
from mcpcp.audit.checkpoint import (
    Checkpoint,
    checkpoint_path,
    hmac_key_paths,
    read_checkpoint,
    why_not_signed,
)
from mcpcp.audit.files import LogFiles, open_if_there, opened, segments
from mcpcp.errors import KeyRingError


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: `broken` names the first record that is not as it was written, if any."""

    log: Path
    records: int
    broken: str | None = None
    signed_by: str = ""

    @property
    def ok(self) -> bool:
        """Whether every record is there and as it was written."""
        return self.broken is None


def chains(path: Path) -> list[Path]:
    """The logs of all gateways beside `path`: those of which file or checkpoint is there."""
    names = set()
    for found in path.parent.glob(f"{path.stem}*"):
        stem = found.name.split(".", 1)[0]
        if stem == path.stem or stem.removeprefix(f"{path.stem}-").isdecimal():
            names.add(f"{stem}.jsonl")
    logs = (path.with_name(name) for name in sorted(names))
    return [log for log in logs if _has_traces(log)]


def _has_traces(log: Path) -> bool:
    return log.exists() or checkpoint_path(log).exists() or bool(segments(log))


def verify(path: Path, keys_dir: Path) -> Verdict:
    """Read the whole log at `path` and the files before it; a gateway may be writing it."""
    checkpoint = read_checkpoint(path)  # first: what comes after it is in the files, too
    if checkpoint is None:
        return Verdict(path, 0, f"{path}: its checkpoint is missing or unreadable")
    with opened(path) as files:
        number, broken = _walk(_lines(path, files), checkpoint)
    if broken:
        return Verdict(path, number, broken)
    broken = _check_checkpoint(checkpoint, number, path, keys_dir)
    return Verdict(path, number, broken, _signer(checkpoint, path, keys_dir))


def _walk(lines: Iterable[tuple[str, bytes]], checkpoint: Checkpoint) -> tuple[int, str | None]:
    """The last good record's number, and what is wrong with the one after it, if anything."""
    number, head = 0, GENESIS
    for place, line in lines:
        link = read_line(line, head)
        if link is None:
            return number, f"{place}: is not a record (after record {number})"
        wrong = _why_not_next(link.number, number, intact=link.stated == link.computed)
        if wrong is None and link.number == checkpoint.count and link.stated != checkpoint.head:
            wrong = "is not the one that the checkpoint was signed for"
        if wrong:
            return number, f"{place}: record {link.number} {wrong}"
        number, head = link.number, link.stated
    return number, None


def _why_not_next(number: int, before: int, *, intact: bool) -> str | None:
    if number != before + 1:
        return f"follows record {before}: records between them are missing"
    return None if intact else "was changed, or one before it was"


def _signer(checkpoint: Checkpoint, path: Path, keys_dir: Path) -> str:
    if checkpoint.kid:
        return f"key {checkpoint.kid}"
    first, second = hmac_key_paths(path, keys_dir)
    if first.exists():
        return f"{first}"
    return f"{second}, so whoever can write the log can forge it"


def _check_checkpoint(
    checkpoint: Checkpoint, records: int, path: Path, keys_dir: Path
) -> str | None:
    try:
        unsigned = why_not_signed(checkpoint, path, keys_dir)
    except KeyRingError as e:
        unsigned = f"can't be checked: {e}"
    if unsigned:
        return f"{path}: its checkpoint {unsigned}"
    if records < checkpoint.count:
        return f"{path}: ends at record {records}, the checkpoint counts {checkpoint.count}"
    return None


def _lines(path: Path, files: LogFiles) -> Iterator[tuple[str, bytes]]:
    for file in files.full:
        with open_if_there(file) as lines:
            yield from _numbered(file, lines)
    yield from _numbered(path, files.current)


def _numbered(file: Path, lines: Iterable[bytes] | None) -> Iterator[tuple[str, bytes]]:
    for n, line in enumerate(lines or (), 1):
        yield f"{file}, line {n}", line
