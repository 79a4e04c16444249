"""The audit log: no record is lost, and none can be changed unseen."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcpcp import keyring
from mcpcp.audit import AuditLog, CallRecord, chains, verify
from mcpcp.audit.checkpoint import HMAC_KEY, write_checkpoint
from mcpcp.audit.files import segments
from mcpcp.errors import Unavailable
from tests.fleet import PATIENCE

pytestmark = pytest.mark.anyio

WRITER = """
import sys
from pathlib import Path
from mcpcp.audit import AuditLog, CallRecord
log = AuditLog(Path(sys.argv[1]), Path(sys.argv[2]))
n = 0
while True:
    n += 1
    log.record(CallRecord("me", "id", "s", "mcp1", "echo", "tools/call", "ok", request_id=str(n)))
    print(n, flush=True)  # the answer leaves
"""

FULL_DISK = """
import resource, sys
from pathlib import Path
from mcpcp.audit import AuditLog, CallRecord
from mcpcp.errors import Unavailable
from tests.fleet import PATIENCE
log = AuditLog(Path(sys.argv[1]), Path(sys.argv[2]))
log.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
written = 0
try:
    while written < 1000:
        log.record(CallRecord("me", "id", "s", "mcp1", "echo", "tools/call", "ok"))
        written += 1
except Unavailable:
    print(written)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.record(CallRecord("me", "id", "s", "mcp1", "echo", "tools/call", "ok"))
log.close()
"""


def call(request_id: str = "1", tool: str = "echo") -> CallRecord:
    return CallRecord(
        "me", "id", "s", "mcp1", tool, "tools/call", "ok", "", 1.5, request_id
    )  # fmt: skip


@pytest.fixture
def written(path: Path, ring: Path) -> Path:
    """A log of 10 calls, closed well; record 1 says that it was started."""
    log = AuditLog(path, ring)
    for n in range(10):
        log.record(call(str(n)))
    log.close()
    return path


def records(path: Path) -> list[dict[str, object]]:
    files = [*segments(path), path]
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def change(path: Path, edit: Callable[[list[str]], list[str]]) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(edit(lines)))


def test_records_hold_what_was_said_and_no_more(written: Path) -> None:
    last = records(written)[-1]
    assert last.pop("ts") == pytest.approx(time.time(), abs=3600)
    assert len(str(last.pop("hash"))) == 64
    assert last == {
        "n": 11, "agent": "me", "token_id": "id", "session": "s", "server": "mcp1",
        "tool": "echo", "method": "tools/call", "outcome": "ok", "reason": "",
        "duration_ms": 1.5, "request_id": "9",
    }  # fmt: skip


def test_a_whole_log_is_verified(written: Path, ring: Path) -> None:
    verdict = verify(written, ring)
    assert (verdict.broken, verdict.records) == (None, 11)
    assert verdict.signed_by == f"key {keyring.load_signing(ring).kid}"


def test_verifying_needs_public_keys_only(written: Path, ring: Path, tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "jwks.json").write_bytes((ring / "jwks.json").read_bytes())
    assert verify(written, tmp_path / "public").ok


@pytest.mark.skipif(sys.platform == "win32", reason="unix modes")
def test_a_log_is_private(written: Path) -> None:
    assert written.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda ls: [*ls[:4], ls[4].replace('"me"', '"I"'), *ls[5:]], "5: record 5 was changed"),
        (lambda ls: ls[:4] + ls[5:], "line 5: record 6 follows record 4"),
        (lambda ls: ls[1:], "line 1: record 2 follows record 0"),
        (lambda ls: [*ls[:4], ls[5], ls[4], *ls[6:]], "line 5: record 6 follows record 4"),
        (lambda ls: [*ls[:5], ls[4], *ls[5:]], "line 6: record 5 follows record 5"),
        (lambda ls: [*ls[:4], "{}\n", *ls[4:]], "line 5: is not a record"),
        (lambda ls: [*ls[:4], "\n", *ls[4:]], "line 5: is not a record"),
        (lambda ls: [*ls[:-1], ls[-1][:-1]], "line 11: is not a record"),
        (lambda ls: [*ls, "torn"], "line 12: is not a record"),
        (lambda ls: ls[:-1], "ends at record 10, the checkpoint counts 11"),
        (lambda ls: [], "ends at record 0, the checkpoint counts 11"),
    ],
)  # fmt: skip
def test_tampering_names_the_first_broken_record(
    written: Path, ring: Path, edit: Callable[[list[str]], list[str]], expected: str
) -> None:
    change(written, edit)
    verdict = verify(written, ring)
    assert verdict.broken is not None
    assert expected in verdict.broken


def test_a_rewritten_chain_does_not_fit_its_checkpoint(
    written: Path, ring: Path, tmp_path: Path
) -> None:
    other = AuditLog(tmp_path / "forged" / "audit.jsonl", ring)
    for n in range(10):
        other.record(call(str(n), tool="forged"))
    other.close()
    written.write_bytes((tmp_path / "forged" / "audit.jsonl").read_bytes())
    assert "is not the one that the checkpoint was signed for" in str(verify(written, ring).broken)


def test_a_forged_checkpoint_is_seen(written: Path, ring: Path, tmp_path: Path) -> None:
    checkpoint = written.with_suffix(".checkpoint.json")
    change(written, lambda ls: ls[:5])
    values = json.loads(checkpoint.read_text())
    head = records(written)[-1]["hash"]
    checkpoint.write_text(json.dumps({**values, "count": 5, "head": head}))
    assert "does not have a good signature" in str(verify(written, ring).broken)
    keyring.ensure(tmp_path / "evil", bits=2048)
    write_checkpoint(written, tmp_path / "evil", 5, str(head))
    assert "is not in the key ring" in str(verify(written, ring).broken)
    checkpoint.write_text(json.dumps({**values, "alg": "none"}))
    assert "unknown method" in str(verify(written, ring).broken)


def test_a_checkpoint_of_another_log_does_not_count(
    written: Path, ring: Path, tmp_path: Path
) -> None:
    moved = written.with_name("audit-2.jsonl")
    moved.write_bytes(written.read_bytes())
    checkpoint = written.with_suffix(".checkpoint.json").read_bytes()
    moved.with_suffix(".checkpoint.json").write_bytes(checkpoint)
    assert "does not have a good signature" in str(verify(moved, ring).broken)


@pytest.mark.parametrize("gone", ["audit.checkpoint.json", "audit.jsonl"])
def test_a_missing_file_is_seen(written: Path, ring: Path, gone: str) -> None:
    (written.parent / gone).unlink()
    assert not verify(written, ring).ok
    assert chains(written) == [written]


def test_the_chain_goes_on_over_restarts(written: Path, ring: Path) -> None:
    log = AuditLog(written, ring)
    log.record(call("again"))
    log.close()
    assert verify(written, ring).records == 13  # one of them says that it was started again
    assert [r["n"] for r in records(written)] == list(range(1, 14))


def test_cut_records_stay_missed_after_a_restart(written: Path, ring: Path) -> None:
    change(written, lambda ls: ls[:5])
    log = AuditLog(written, ring)
    log.record(call("again"))
    log.close()
    assert "record 12 follows record 5" in str(verify(written, ring).broken)
    assert [r["missing"] for r in records(written) if "missing" in r] == [6]


def test_a_deleted_log_stays_missed_after_a_restart(written: Path, ring: Path) -> None:
    written.unlink()
    log = AuditLog(written, ring)
    log.record(call())
    log.close()
    assert "record 12 follows record 0" in str(verify(written, ring).broken)


def test_a_log_that_ends_in_nonsense_is_kept_as_evidence(written: Path, ring: Path) -> None:
    change(written, lambda ls: [*ls, "nonsense\n"])
    log = AuditLog(written, ring)
    log.record(call())
    log.close()
    assert "nonsense" in segments(written)[0].read_text()
    assert "audit.000001.jsonl, line 12: is not a record" in str(verify(written, ring).broken)


@pytest.mark.parametrize("torn", [b'{"n":12,"ts":17', b"\0" * 5000, b"x"])
def test_a_torn_last_line_is_cut_and_noted(written: Path, ring: Path, torn: bytes) -> None:
    with written.open("ab") as file:
        file.write(torn)
    log = AuditLog(written, ring)
    log.record(call())
    log.close()
    assert verify(written, ring).records == 13
    assert [r["cut_bytes"] for r in records(written) if "cut_bytes" in r] == [len(torn)]


def test_a_killed_writer_loses_no_record_whose_answer_left(path: Path, ring: Path) -> None:
    with _writer(path, ring) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline() for _ in range(500)]
        process.kill()
        answered += process.stdout.read().splitlines(keepends=True)
    complete = [int(line) for line in answered if line.endswith("\n")]
    log = AuditLog(path, ring)
    log.record(call())
    log.close()
    kept = {r.get("request_id") for r in records(path)}
    assert {str(n) for n in complete} <= kept
    assert len(complete) >= 500
    assert verify(path, ring).ok


@contextlib.contextmanager
def _writer(path: Path, ring: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WRITER, str(path), str(ring)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE stands for a full disk")
def test_a_full_disk_refuses_calls_and_leaves_a_whole_log(path: Path, ring: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(ring)],
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    written = int(done.stdout)
    assert written > 0
    assert len(records(path)) == written + 2
    assert verify(path, ring).ok


def test_a_log_that_can_not_be_written_refuses_calls(tmp_path: Path, ring: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    log = AuditLog(tmp_path / "audit" / "audit.jsonl", ring)
    with pytest.raises(Unavailable, match="so it is refused"):
        log.record(call())
    (tmp_path / "audit").unlink()
    log.record(call())  # it needs no restart
    log.close()
    assert verify(tmp_path / "audit" / "audit.jsonl", ring).records == 2


def test_a_log_that_is_not_required_lets_calls_pass(
    tmp_path: Path, ring: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit").write_text("")
    log = AuditLog(tmp_path / "audit" / "audit.jsonl", ring, required=False)
    for _ in range(3):
        log.record(call())
    assert len([m for m in caplog.messages if "can't be written" in m]) == 1


def test_full_files_are_put_aside_and_the_chain_goes_on(path: Path, ring: Path) -> None:
    log = AuditLog(path, ring, max_bytes=1000)
    for n in range(30):
        log.record(call(str(n)))
    log.close()
    assert len(segments(path)) > 3
    assert all(f.stat().st_size < 1500 for f in segments(path))
    assert verify(path, ring).ok
    assert [r["request_id"] for r in records(path) if "request_id" in r] == [
        str(n) for n in range(30)
    ]
    segments(path)[1].unlink()
    assert "records between them are missing" in str(verify(path, ring).broken)


def test_two_gateways_write_two_logs(path: Path, ring: Path) -> None:
    first, second = AuditLog(path, ring), AuditLog(path, ring)
    for log in (first, second):
        log.record(call())
    assert (first.path.name, second.path.name) == ("audit.jsonl", "audit-2.jsonl")
    for log in (first, second):
        log.close()
    assert chains(path) == [second.path, first.path]
    assert all(verify(log, ring).ok for log in chains(path))


async def test_a_running_log_can_be_verified(path: Path, ring: Path) -> None:
    log = AuditLog(path, ring)
    log.record(call())
    await log.flush()
    log.record(call())
    verdict = verify(path, ring)
    assert (verdict.ok, verdict.records) == (True, 3)
    log.close()


async def test_a_flush_signs_what_was_recorded(path: Path, ring: Path) -> None:
    log = AuditLog(path, ring)
    log.record(call())
    await log.flush()
    change(path, lambda ls: ls[:-1])
    assert "ends at record 1, the checkpoint counts 2" in str(verify(path, ring).broken)
    log.close()


async def test_a_log_that_is_taken_away_is_taken_up_anew(
    path: Path, ring: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog(path, ring)
    log.record(call())
    path.rename(path.with_name("stolen"))
    await log.flush()
    assert "was moved or deleted while in use" in caplog.text
    log.record(call())
    log.close()
    assert records(path)[-1]["request_id"] == "1"
    assert not verify(path, ring).ok


def test_without_a_private_key_an_hmac_signs(path: Path, ring: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "jwks.json").write_bytes((ring / "jwks.json").read_bytes())
    log = AuditLog(path, keys)
    log.record(call())
    log.close()
    assert (verify(path, keys).ok, verify(path, keys).signed_by) == (True, str(keys / HMAC_KEY))
    (keys / HMAC_KEY).write_text("00" * 32)
    assert "does not have a good signature" in str(verify(path, keys).broken)
    (keys / HMAC_KEY).unlink()
    assert "can't be checked" in str(verify(path, keys).broken)


@pytest.mark.parametrize("text", ["x" * 100_000, "\ud800", 'a"\n\0\x1b[2J', "é" * 5000])
def test_names_that_clients_made_up_fit_into_a_line(path: Path, ring: Path, text: str) -> None:
    log = AuditLog(path, ring)
    log.record(call(tool=text))
    log.record(call())
    log.close()
    assert verify(path, ring).records == 3
    assert max(len(line) for line in path.read_bytes().splitlines()) < 4096
    assert re.match(re.escape(text[:1].encode("utf-8", "backslashreplace").decode()),
                    str(records(path)[1]["tool"]))  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_open_descriptors_are_given_back(path: Path, ring: Path) -> None:
    log = AuditLog(path, ring, max_bytes=1000)
    for _ in range(30):
        log.record(call())
    assert _opened(path.parent)
    log.close()
    assert not _opened(path.parent)


def _opened(folder: Path) -> list[Path]:
    """The files in `folder` that this process has open; other threads open and close others."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(link.readlink())
    return [path for path in found if folder in path.parents]
