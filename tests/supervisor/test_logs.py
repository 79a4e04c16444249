import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpcp.supervisor.logs import (
    BURST,
    LONGEST_LINE,
    RATE,
    Allowance,
    LineSplitter,
    LogFile,
    ProcessLog,
    plain_text,
    telling_line,
)
from tests.fleet import PATIENCE


def test_a_log_file_keeps_the_newest_files_and_drops_the_oldest(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", largest=10, kept=3)
    for piece in (b"1111111\n", b"2222222\n", b"3333333\n", b"4444444\n"):
        log.write(piece)
    log.close()
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"a.log": b"4444444\n", "a.log.1": b"3333333\n", "a.log.2": b"2222222\n"}


def test_a_log_file_goes_on_where_it_ended(tmp_path: Path) -> None:
    for piece in (b"one\n", b"two\n"):
        log = LogFile(tmp_path / "a.log")
        log.write(piece)
        log.close()
    assert (tmp_path / "a.log").read_bytes() == b"one\ntwo\n"


def test_a_log_file_is_private(tmp_path: Path) -> None:
    LogFile(tmp_path / "a.log").close()
    assert (tmp_path / "a.log").stat().st_mode & 0o077 == 0


def test_a_full_disk_costs_the_data_and_nothing_else() -> None:
    log = LogFile(Path("/dev/full"))
    assert log.write(b"lost\n") == 0
    log.close()


def test_an_allowance_grants_its_burst_and_then_its_rate() -> None:
    now = 100.0
    allowance = Allowance(rate=10, burst=50, clock=lambda: now)
    assert allowance.take(60) == 50
    assert allowance.take(1) == 0
    now += 2
    assert allowance.take(60) == 20
    now += 1000
    assert allowance.take(1000) == 50


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_are_the_same_however_they_arrive(pieces: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    whole = b"".join(pieces).decode("utf-8", "replace")
    expected = whole.split("\n")
    assert "\n".join([*lines, *splitter.finish()]).rstrip("\n") == "\n".join(expected).rstrip("\n")


def test_a_line_without_an_end_is_cut_and_not_hoarded() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(b"x" * (3 * LONGEST_LINE + 1))
    assert [len(line) for line in lines] == [LONGEST_LINE] * 3
    assert splitter.finish() == ["x"]


def test_the_telling_line_is_the_last_about_an_error_without_its_colours() -> None:
    lines = ["starting", "\x1b[31mValueError: no\x1b[0m port", "shutdown complete", ""]
    assert telling_line(lines) == "ValueError: no port"
    assert telling_line(["one", "two", " "]) == "two"
    assert telling_line(["cannot bind", "INFO uvicorn.error: Finished"]) == "cannot bind"
    assert telling_line([]) is None


def test_plain_text_has_no_escape_sequences() -> None:
    assert plain_text("\x1b]0;title\x07a\x1b[1;31mb\x1b[0m\tc\r") == "ab\tc"


@pytest.mark.anyio
async def test_what_a_process_writes_is_on_disk_and_shown(tmp_path: Path) -> None:
    shown: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    log = ProcessLog("s", tmp_path / "s.log", lambda *line: shown.put_nowait(line))
    output = log.open()
    os.write(output, b"hello\nworld\n")
    os.close(output)
    async with asyncio.timeout(PATIENCE):
        assert [await shown.get(), await shown.get()] == [("s", "hello"), ("s", "world")]
    log.close()
    assert (tmp_path / "s.log").read_bytes() == b"hello\nworld\n"


@pytest.mark.anyio
async def test_the_last_error_is_known_though_the_loop_has_not_turned(tmp_path: Path) -> None:
    log = ProcessLog("s", tmp_path / "s.log", lambda *_: None)
    output = log.open()
    os.write(output, b"Traceback:\nKeyError: 'x'")
    os.close(output)
    assert log.last_error() == "KeyError: 'x'"
    log.close()


@pytest.mark.anyio
async def test_a_flood_neither_blocks_its_writer_nor_the_loop_nor_fills_the_disk(
    tmp_path: Path,
) -> None:
    log = ProcessLog("s", tmp_path / "s.log", lambda *_: None)
    output = log.open()
    megabytes = 150
    program = (
        "import os\n"
        "line = b'x' * 1023 + b'\\n'\n"
        f"for _ in range({megabytes}): os.write(1, line * 1024)"
    )
    began = time.monotonic()
    writer = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", program], stdout=output
    )
    os.close(output)
    turns = 0
    async with asyncio.timeout(PATIENCE):
        while writer.poll() is None:
            await asyncio.sleep(0.001)
            turns += 1
    took = time.monotonic() - began
    assert writer.returncode == 0
    assert turns > megabytes / 2  # others had the loop between any two pieces
    log.note("the end")
    log.close()
    kept = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert kept <= BURST + RATE * took + 1_000_000
    # The writer, had it waited for the log, would have lost nothing.
    assert "bytes dropped" in "".join(p.read_text() for p in tmp_path.iterdir())


def test_a_log_whose_folder_was_removed_is_begun_anew_at_the_next_rotation(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    log = LogFile(folder / "a.log", largest=10)
    log.write(b"1111111\n")
    shutil.rmtree(folder)
    log.write(b"2222222\n")
    assert (folder / "a.log").read_bytes() == b"2222222\n"
    log.close()


def test_a_log_that_cannot_be_opened_again_loses_its_lines_and_recovers(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    log = LogFile(folder / "a.log", largest=10)
    log.write(b"1111111\n")
    shutil.rmtree(folder)
    folder.write_text("in the way")
    with (tmp_path / "other").open("wb") as other:  # takes the number that the log had
        assert log.write(b"2222222\n") == 0
        folder.unlink()
        assert log.write(b"3333333\n") == 8
        assert other.tell() == 0
    assert (tmp_path / "other").read_bytes() == b""
    assert (folder / "a.log").read_bytes() == b"3333333\n"
    log.close()
