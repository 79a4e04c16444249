"""Which lines of a server's log wait for others, and which do not."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import anyio
import pytest

from servers.plumbing import logs
from tests.servers.harness import DEADLINE

pytestmark = pytest.mark.anyio


class Reader(io.StringIO):
    """Remembers what each write brought."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.written = anyio.Event()

    def write(self, text: str) -> int:
        if text:
            self.writes.append(text)
            self.written.set()
        return super().write(text)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def say(reader: Reader) -> Iterator[logging.Logger]:
    """The logger of ended calls; its children are other loggers."""
    handler = logs.Gathering(reader)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(logs.CALLS)
    before = (logger.handlers, logger.propagate, logger.level)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


async def test_the_lines_of_ended_calls_are_written_together_and_soon(
    reader: Reader, say: logging.Logger
) -> None:
    for number in range(3):
        say.info("call %s", number)
    assert reader.writes == []
    with anyio.fail_after(DEADLINE):
        await reader.written.wait()
    assert reader.writes == ["call 0\ncall 1\ncall 2\n"]
    reader.written = anyio.Event()
    say.info("call 3")
    with anyio.fail_after(DEADLINE):
        await reader.written.wait()
    assert reader.writes[1:] == ["call 3\n"]


async def test_any_other_line_is_written_at_once_and_after_those_that_wait(
    reader: Reader, say: logging.Logger
) -> None:
    say.info("call")
    say.getChild("other").info("something else")
    assert reader.writes == ["call\nsomething else\n"]


def test_without_a_loop_nothing_waits(reader: Reader, say: logging.Logger) -> None:
    say.info("call")
    assert reader.writes == ["call\n"]


async def test_what_waits_is_written_where_the_process_ends(
    reader: Reader, say: logging.Logger
) -> None:
    say.info("call")
    say.handlers[0].flush()
    assert reader.writes == ["call\n"]


async def test_a_reader_that_is_gone_disturbs_nobody(reader: Reader, say: logging.Logger) -> None:
    reader.close()
    say.getChild("other").info("to nobody")
