"""Reading logs while they are written: each record once and in order, whatever rotates."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import count, islice
from pathlib import Path

import pytest

from mcpcp.audit import AuditLog, CallRecord, chains, verify
from mcpcp.audit.files import opened, segments
from mcpcp.audit.reader import LogReader, follow, newest, records
from mcpcp.audit.reading import Filter, Record
from tests.cli.project import Project
from tests.fleet import PATIENCE

EVERYTHING = Filter()
CALLS = Filter(tool="echo")


@pytest.fixture
def log(path: Path, ring: Path) -> Iterator[AuditLog]:
    """A log of small files, three records each."""
    log = AuditLog(path, ring, max_bytes=500)
    yield log
    log.close()


def say(log: AuditLog, *requests: str) -> None:
    for request in requests:
        log.record(
            CallRecord("me", "id", "s", "mcp1", "echo", "tools/call", "ok", request_id=request)
        )


def requests(found: Iterable[Record]) -> list[str]:
    return [record["request_id"] for record in found if "request_id" in record]


def numbers(found: Iterable[Record]) -> list[int]:
    return [record["n"] for record in found]


@contextmanager
def written_all_the_time(log: AuditLog) -> Iterator[None]:
    """Somebody writes, and so begins new files, while the context is open."""
    enough = threading.Event()

    def write() -> None:
        for number in count():
            if enough.is_set():
                return
            say(log, str(number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        enough.set()
        writer.join()


def test_between_the_newest_records_and_those_to_come_nothing_is_lost(
    log: AuditLog, path: Path
) -> None:
    say(log, "1", "2")
    with closing(follow(path, CALLS, 1)) as following:
        assert next(following)["request_id"] == "2"
        say(log, "3", "4")
        assert requests(islice(following, 2)) == ["3", "4"]


def test_of_files_that_came_and_were_full_between_two_looks_nothing_is_lost(
    log: AuditLog, path: Path
) -> None:
    said = [str(number) for number in range(20)]
    say(log, "before")
    with closing(follow(path, CALLS, 1)) as following:
        assert next(following)["request_id"] == "before"
        say(log, *said)
        assert len(segments(path)) > 3
        assert requests(islice(following, len(said))) == said


def test_a_log_is_followed_that_another_gateway_begins(
    log: AuditLog, path: Path, ring: Path
) -> None:
    say(log, "first")
    with closing(follow(path, CALLS, 5)) as following:
        assert next(following)["request_id"] == "first"
        other = AuditLog(path, ring)
        say(other, "second")
        assert other.path != path
        assert next(following)["request_id"] == "second"
        say(log, "third")
        assert next(following)["request_id"] == "third"
        other.close()


def test_a_record_is_read_when_all_of_it_is_there(log: AuditLog, path: Path) -> None:
    say(log, "1")
    reader = LogReader(path)
    assert requests(reader.fresh()) == ["1"]
    with path.open("a") as file:
        file.write('{"request_id":')
    assert requests(reader.fresh()) == []
    with path.open("a") as file:
        file.write('"2"}\nno record\n[]\n{"request_id":"3"}\n')
    assert requests(reader.fresh()) == ["2", "3"]


def test_a_log_that_was_taken_away_is_read_anew(log: AuditLog, path: Path) -> None:
    say(log, "1", "2")
    reader = LogReader(path)
    assert requests(reader.fresh()) == ["1", "2"]
    log.close()
    path.rename(path.with_name("stolen"))
    assert requests(reader.fresh()) == []
    say(log, "3")
    assert requests(reader.fresh()) == ["3"]


def test_the_newest_come_from_older_files_where_newer_ones_have_too_few(
    log: AuditLog, path: Path
) -> None:
    said = [str(number) for number in range(20)]
    say(log, *said)
    for wanted in (0, 1, 7, 20, 30):
        found = newest(chains(path), CALLS, wanted)
        assert requests(found) == (said[-wanted:] if wanted else [])


def test_a_reader_finds_each_record_once_and_in_order_while_files_are_begun(
    log: AuditLog, path: Path
) -> None:
    say(log, "first")
    reader = LogReader(path)
    with written_all_the_time(log):
        found = numbers(reader.newest(EVERYTHING, 10_000))
        while len(found) < 300:
            found += numbers(reader.fresh())
    found += numbers(reader.fresh())
    assert found == list(range(1, found[-1] + 1))


def test_a_log_is_whole_at_every_moment_of_its_being_written(
    log: AuditLog, path: Path, ring: Path
) -> None:
    say(log, "first")
    with written_all_the_time(log):
        for _ in range(30):
            verdict = verify(path, ring)
            assert verdict.ok, verdict.broken
            found = numbers(records([path]))
            assert found == list(range(1, len(found) + 1))
            assert len(found) >= verdict.records


def test_what_is_opened_is_of_one_moment_though_a_file_becomes_full(
    log: AuditLog, path: Path
) -> None:
    say(log, "1")
    with opened(path) as files:
        say(log, *(str(number) for number in range(2, 20)))
        assert segments(path) != files.full == []
        assert files.current is not None
        assert numbers(json.loads(line) for line in files.current)[0] == 1


def test_the_tail_goes_on_until_ctrl_c(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.make_keys()
    log = AuditLog(tmp_path / "data" / "audit" / "audit.jsonl", project.keys, max_bytes=500)
    say(log, "1", "2")
    command = ["audit", "tail", "-f", "-n", "1", "--json", "--tool", "echo"]
    with subprocess.Popen(
        [sys.executable, "-m", "mcpcp", *command, "--config", str(project.config)],
        stdout=subprocess.PIPE,
        text=True,
    ) as tail:
        assert tail.stdout is not None
        assert json.loads(tail.stdout.readline())["request_id"] == "2"
        say(log, *(str(number) for number in range(3, 10)))
        shown = [json.loads(tail.stdout.readline())["request_id"] for _ in range(3, 10)]
        assert shown == [str(number) for number in range(3, 10)]
        tail.send_signal(signal.SIGINT)
        assert tail.wait(PATIENCE) == 0
    log.close()
