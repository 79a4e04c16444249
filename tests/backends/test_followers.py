"""Who follows which resource, and what the server is told of that, in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcpcp.backends.followers import Followers
from mcpcp.errors import Unavailable
from mcpcp.jsonrpc import RpcError

pytestmark = pytest.mark.anyio

PATIENCE = 90.0
TURNS = 100
"""Rounds of the event loop after which whatever can go on has gone on."""


class Said:
    """A server that takes its time: what it was told, answered one by one when the test says."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._answers: asyncio.Queue[Exception | None] = asyncio.Queue()

    async def say(self, method: str, uri: str) -> None:
        self.heard.append(f"{method.removeprefix('resources/')} {uri}")
        async with asyncio.timeout(PATIENCE):
            error = await self._answers.get()
        if error is not None:
            raise error

    async def heard_in_the_end(self, *expected: str) -> None:
        """What it has heard once nothing goes on without an answer."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert self.heard == list(expected)

    def answer(self, error: Exception | None = None) -> None:
        self._answers.put_nowait(error)


@pytest.fixture
async def followers() -> Followers:
    return Followers(lambda: None)


@pytest.fixture
async def server() -> Said:
    return Said()


def ignore(message: Any) -> None:
    """Hear nothing."""


async def test_an_end_is_answered_before_the_next_beginning_is_said(
    followers: Followers, server: Said
) -> None:
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(followers.keep(server.say))
        await server.heard_in_the_end()
        leave = followers.add("a", ignore)
        server.answer()
        await followers.subscribe("a", server.say)
        leave()
        await server.heard_in_the_end("subscribe a", "unsubscribe a")
        followers.add("a", ignore)
        again = tasks.create_task(followers.subscribe("a", server.say))
        await server.heard_in_the_end("subscribe a", "unsubscribe a")
        server.answer()
        await server.heard_in_the_end("subscribe a", "unsubscribe a", "subscribe a")
        server.answer()
        await again
        keeping.cancel()


async def test_a_second_follower_waits_for_the_first_one_s_answer_and_asks_where_that_failed(
    followers: Followers, server: Said
) -> None:
    async with asyncio.TaskGroup() as tasks:
        followers.add("a", ignore)
        followers.add("a", ignore)
        first = tasks.create_task(_failed(followers, server))
        second = tasks.create_task(followers.subscribe("a", server.say))
        await server.heard_in_the_end("subscribe a")
        server.answer(RpcError(-1, "not now"))
        await first
        await server.heard_in_the_end("subscribe a", "subscribe a")
        assert not second.done()
        server.answer()
    await followers.subscribe("a", server.say)  # the server knows


async def _failed(followers: Followers, server: Said) -> None:
    with pytest.raises(RpcError, match="not now"):
        await followers.subscribe("a", server.say)


async def test_what_was_said_and_not_waited_for_is_taken_back(
    followers: Followers, server: Said
) -> None:
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(followers.keep(server.say))
        await server.heard_in_the_end()
        leave = followers.add("a", ignore)
        saying = tasks.create_task(followers.subscribe("a", server.say))
        await server.heard_in_the_end("subscribe a")
        saying.cancel()
        leave()
        await server.heard_in_the_end("subscribe a", "unsubscribe a")
        server.answer()
        await server.heard_in_the_end("subscribe a", "unsubscribe a")
        assert followers.uris == []
        keeping.cancel()


async def test_a_server_that_was_away_is_told_of_all_that_is_followed_whoever_waits_for_it(
    followers: Followers, server: Said
) -> None:
    back = asyncio.Event()

    async def once_it_is_back(method: str, uri: str) -> None:
        await back.wait()
        raise Unavailable("away")

    async with asyncio.TaskGroup() as tasks:
        followers.add("a", ignore)
        waiting = tasks.create_task(_away(followers, once_it_is_back))
        for _ in range(2):
            server.answer()
        await server.heard_in_the_end()
        await followers.renew(server.say)
        await server.heard_in_the_end("subscribe a")
        followers.add("b", ignore)  # after that, and before anybody can be asked
        keeping = tasks.create_task(followers.keep(server.say))
        back.set()
        await waiting
        await server.heard_in_the_end("subscribe a", "subscribe a", "subscribe b")
        keeping.cancel()


async def _away(followers: Followers, say: Any) -> None:
    with pytest.raises(Unavailable):
        await followers.subscribe("a", say)


@pytest.mark.parametrize(
    ("followed", "updated", "heard"),
    [
        ("a://x", "a://x", True),
        ("a://x", "a://x/part/of", True),
        ("a://x/", "a://x/part", True),
        ("a://x", "a://x?q=1", True),
        ("a://x", "a://x#top", True),
        ("a://x", "a://xy", False),
        ("a://x/part", "a://x", False),
        ("a://x", "a://y", False),
        ("", "a://x", False),
    ],
)
async def test_an_update_of_a_part_is_one_of_the_whole(
    followers: Followers, followed: str, updated: str, heard: bool
) -> None:
    told: list[Any] = []
    followers.add(followed, told.append)
    followers.tell(updated, {"m": 1})
    assert told == [{"m": 1}] * heard
