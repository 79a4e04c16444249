"""Reading logs: the last lines across rotation, and lines to come."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from mcpcp.cli.following import follow_file, last_lines
from tests.fleet import PATIENCE


def test_the_last_lines_reach_into_the_rotated_file(tmp_path: Path) -> None:
    log = tmp_path / "mcp1.log"
    (tmp_path / "mcp1.log.1").write_text("one\ntwo\n")
    log.write_text("three\n")
    assert last_lines(log, 2) == ["two", "three"]
    assert last_lines(log, 0) == []
    assert last_lines(tmp_path / "other.log", 5) == []


def test_following_goes_on_in_the_file_that_replaced_the_old_one(tmp_path: Path) -> None:
    log = tmp_path / "mcp1.log"
    log.write_text("before\n")
    with closing(follow_file(log, 10)) as following:
        assert next(following) == "before"
        with log.open("a") as file:
            file.write("half")
            file.flush()
            file.write(" and half\nlast\n")
        assert next(following) == "half and half"
        log.rename(tmp_path / "mcp1.log.1")
        log.write_text("new\n")
        assert next(following) == "last"
        assert next(following) == "new"


def test_between_the_last_lines_and_those_to_come_nothing_is_lost(tmp_path: Path) -> None:
    log = tmp_path / "mcp1.log"
    (tmp_path / "mcp1.log.1").write_text("one\ntwo\n")
    log.write_text("three\nhal")
    with closing(follow_file(log, 2)) as following:
        assert next(following) == "two"
        with log.open("a") as file:
            file.write("f\nfour\n")
        assert [next(following) for _ in range(3)] == ["three", "half", "four"]


def test_a_file_that_is_rotated_while_the_one_before_it_is_read_is_not_left_out(
    tmp_path: Path,
) -> None:
    log, rotated = tmp_path / "mcp1.log", tmp_path / "mcp1.log.1"
    log.write_text("two\n")
    os.mkfifo(rotated)

    def rotate() -> None:
        with rotated.open("w") as file:  # the reader has come to it
            file.write("one\n")
            log.replace(rotated)
            log.write_text("three\n")

    with ThreadPoolExecutor() as others:
        rotation = others.submit(rotate)
        assert last_lines(log, 10) == ["two", "three"]
        rotation.result(PATIENCE)
