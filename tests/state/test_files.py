"""Revocations on files, shared by processes."""

from __future__ import annotations

import time
from pathlib import Path

from mcpcp.state import FileRevocations

LATER = 4e9


def test_a_revocation_outlives_its_process(tmp_path: Path) -> None:
    FileRevocations(tmp_path / "r").revoke("a", LATER)
    again = FileRevocations(tmp_path / "r")
    assert again.is_revoked("a")
    assert not again.is_revoked("b")


def test_revocations_of_other_processes_arrive_however_fast_they_come(tmp_path: Path) -> None:
    reader, writer = (FileRevocations(tmp_path / "r") for _ in range(2))
    for n in range(20):  # within the grain of the folder's time stamp
        writer.revoke(f"t{n}", LATER)
    deadline = time.monotonic() + 60
    missing = {f"t{n}" for n in range(20)}
    while missing and time.monotonic() < deadline:
        missing = {t for t in missing if not reader.is_revoked(t)}
    assert not missing


def test_records_go_when_their_tokens_have_ended(tmp_path: Path) -> None:
    now = 100.0
    revocations = FileRevocations(tmp_path / "r", lambda: now)
    revocations.revoke("a", 150)
    now = 151.0
    revocations.revoke("b", 200)
    assert dict(revocations.current()) == {"b": 200}
    assert len(list((tmp_path / "r").iterdir())) == 1


def test_a_folder_that_vanishes_frees_no_token(tmp_path: Path) -> None:
    revocations = FileRevocations(tmp_path / "r")
    revocations.revoke("a", LATER)
    for path in (tmp_path / "r").iterdir():
        path.unlink()
    (tmp_path / "r").rmdir()
    assert "a" in revocations.current()


def test_a_damaged_record_does_not_hide_the_others(tmp_path: Path) -> None:
    FileRevocations(tmp_path / "r").revoke("a", LATER)
    (tmp_path / "r" / "0.json").write_text("{")
    (tmp_path / "r" / "1.json").write_text('{"token_id": "b"}')
    assert FileRevocations(tmp_path / "r").is_revoked("a")


def test_odd_token_ids_stay_in_their_folder(tmp_path: Path) -> None:
    FileRevocations(tmp_path / "r").revoke("../../x\n/", LATER)
    assert FileRevocations(tmp_path / "r").is_revoked("../../x\n/")
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
