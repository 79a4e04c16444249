"""What is done for calls that take long: at its time, in its order, on one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mcpcp.frontends.overdue import Overdue
from tests.gateway import fastclock


def test_each_is_done_at_its_time_and_in_its_order() -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        done: list[tuple[str, float]] = []
        over = asyncio.Event()

        def action(name: str) -> Callable[[], None]:
            return lambda: done.append((name, loop.time()))

        overdue = Overdue(15.0)
        with fastclock.jumping():
            began = loop.time()
            overdue.add(action("first"))
            await asyncio.sleep(5.0)
            overdue.add(action("second"))
            overdue.add(over.set)
            await over.wait()
        (first, early), (second, late) = done
        assert (first, second) == ("first", "second")
        assert early >= began + 14.9
        assert late >= early + 4.9

    fastclock.run(check())


def test_what_was_taken_out_is_not_done_and_what_came_later_is() -> None:
    async def check() -> None:
        done: list[str] = []
        over = asyncio.Event()

        def never() -> None:
            done.append("never")

        overdue = Overdue(1.0)
        with fastclock.jumping():
            overdue.add(never)
            overdue.remove(never)
            overdue.remove(never)
            await asyncio.sleep(5.0)  # its timer has found nothing to do
            overdue.add(over.set)
            await over.wait()
        assert done == []

    fastclock.run(check())


def test_one_that_fails_holds_no_other_up() -> None:
    async def check() -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: failures.append(c))
        over = asyncio.Event()

        def fail() -> None:
            raise RuntimeError("broken")

        overdue = Overdue(1.0)
        with fastclock.jumping():
            overdue.add(fail)
            overdue.add(over.set)
            await over.wait()
        assert len(failures) == 1

    fastclock.run(check())


@pytest.mark.anyio
async def test_an_action_may_add_another() -> None:
    over = asyncio.Event()
    overdue = Overdue(0.001)
    overdue.add(lambda: overdue.add(over.set))
    async with asyncio.timeout(20):
        await over.wait()
