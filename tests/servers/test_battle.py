"""Battle reports: none lost, none out of order, whatever happens to the backend and to us."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from servers.battle_log.backend import Accepted, Away, Backend, BackendUrlError, Refused, judge
from servers.battle_log.delivery import LONGEST_BACKOFF, Delivery, Outcome, Patience, backoff
from servers.battle_log.journal import COMPACT_BYTES, Event, Journal
from tests.servers.harness import DEADLINE, ROOT, FakeBackend, Script, connected, running, until

BATTLE = ROOT / "servers" / "battle.py"


@pytest.fixture
def backend(free_port: Callable[[], int]) -> Iterator[FakeBackend]:
    fake = FakeBackend(free_port())
    yield fake
    fake.stop()


def settings(backend: FakeBackend, log: Path, patience: float = DEADLINE) -> dict[str, str]:
    """A backend that is there is waited for, however slow the machine is."""
    return {
        "BACKEND_URL": backend.url,
        "BATTLE_LOG_DIR": str(log),
        "BATTLE_PATIENCE": str(patience),
    }


async def update(client: Client, message: str, **more: Any) -> dict[str, Any]:
    arguments = {"battle_id": "b1", "message": message, "reported_by": "tester", **more}
    result = await client.call_tool("update_battle_process", arguments)
    assert not result.is_error, result
    content: dict[str, Any] | None = result.structured_content
    assert content is not None
    return content


async def report(script: Script, *messages: str) -> list[dict[str, Any]]:
    async with connected(script.url, "http", "legacy") as client:
        return [await update(client, message) for message in messages]


@pytest.mark.anyio
async def test_an_update_and_a_result_reach_the_backend(
    backend: FakeBackend, tmp_path: Path
) -> None:
    backend.start()
    before = datetime.now(UTC)
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        async with connected(script.url, "sse", "legacy") as client:
            told = await update(client, "round 1", detail={"hp": 3}, markdown_content="# One")
            assert (told["status"], told["reason"]) == ("delivered", None)
            end = {"battle_id": "b 1?/../x".replace("/", ":"), "message": "over"}
            end |= {"winner": "green", "reported_by": "judge"}
            assert not (await client.call_tool("report_on_battle_end", end)).is_error
    first, last = backend.posts
    assert first.path == "/battles/b1"
    assert first.headers["Idempotency-Key"] == first.body.pop("event_id") == told["event_id"]
    moment = datetime.fromisoformat(first.body.pop("timestamp"))
    assert before.replace(microsecond=0) <= moment <= datetime.now(UTC)
    assert first.body == {
        "is_result": False,
        "message": "round 1",
        "reported_by": "tester",
        "detail": {"hp": 3},
        "markdown_content": "# One",
    }
    assert last.path == "/battles/b%201%3F%3A..%3Ax"
    assert (last.body["is_result"], last.body["winner"]) == (True, "green")


@pytest.mark.anyio
async def test_bad_arguments_are_refused_before_anything_is_recorded(
    backend: FakeBackend, tmp_path: Path
) -> None:
    bad = ["..", "../../etc/passwd", "a/b", "a\\b", "", ".", "a\nb", "x" * 129, " a", "a\0"]
    with running(BATTLE, env=settings(backend, tmp_path / "log")) as script:
        async with connected(script.url, "http", "legacy") as client:
            for battle_id in bad:
                arguments = {"battle_id": battle_id, "message": "m", "reported_by": "r"}
                assert (await client.call_tool("update_battle_process", arguments)).is_error
            arguments = {"battle_id": "b", "message": "m", "reported_by": "r", "winner": "pink"}
            assert (await client.call_tool("report_on_battle_end", arguments)).is_error
    assert not (tmp_path / "log" / "events.jsonl").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]


@pytest.mark.anyio
async def test_while_the_backend_is_away_events_queue_and_arrive_later_in_order(
    backend: FakeBackend, tmp_path: Path
) -> None:
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        told = await report(script, "one", "two", "three")
        assert {answer["status"] for answer in told} == {"queued"}
        assert "can't be reached" in told[0]["reason"]
        health = script.get("/health").json()
        assert health["status"] == "degraded"
        assert "can't be reached" in health["detail"]
        backend.start()
        [after] = await report(script, "four")
        assert after["status"] == "delivered"
        assert backend.wait_for(4) == ["one", "two", "three", "four"]
        assert [post.body["event_id"] for post in backend.posts] == [
            answer["event_id"] for answer in [*told, after]
        ]
        assert script.get("/health").json()["status"] == "ok"


@pytest.mark.anyio
async def test_queued_events_are_delivered_without_a_further_call(
    backend: FakeBackend, tmp_path: Path
) -> None:
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        await report(script, "alone")
        backend.start()
        assert backend.wait_for(1) == ["alone"]


@pytest.mark.parametrize("end", [Script.stop, Script.kill])
@pytest.mark.anyio
async def test_a_restart_loses_nothing(
    backend: FakeBackend, tmp_path: Path, end: Callable[[Script], int]
) -> None:
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        await report(script, "one", "two")
        end(script)
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        await report(script, "three")
        backend.start()
        assert backend.wait_for(3) == ["one", "two", "three"]


@pytest.mark.anyio
async def test_what_was_delivered_is_not_sent_again_after_a_restart(
    backend: FakeBackend, tmp_path: Path
) -> None:
    backend.start()
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        await report(script, "one", "two")
        script.kill()
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        await report(script, "three")
    assert backend.wait_for(3) == ["one", "two", "three"]


@pytest.mark.anyio
async def test_killed_again_and_again_under_load_every_answer_is_kept(
    backend: FakeBackend, tmp_path: Path
) -> None:
    backend.start()
    acknowledged: list[str] = []
    for generation in range(4):
        with running(BATTLE, env=settings(backend, tmp_path)) as script:
            killer = threading.Timer(0.003 * generation, script.process.kill)
            with pytest.raises((BaseExceptionGroup, MCPError)):
                async with connected(script.url, "http", "legacy") as client:
                    for number in range(10_000):
                        if number == 10:
                            killer.start()  # lands somewhere in the calls that follow
                        with anyio.fail_after(DEADLINE):
                            answer = await update(client, f"{generation}-{number}")
                        acknowledged.append(answer["event_id"])
            killer.join()
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        [last] = await report(script, "last")
        assert last["status"] == "delivered"  # and so is all that came before it
    received = list(dict.fromkeys(post.body["event_id"] for post in backend.posts))
    assert [event for event in received if event in set(acknowledged)] == acknowledged
    assert len(acknowledged) >= 40


@pytest.mark.anyio
async def test_an_error_of_the_backend_holds_everything_behind_it(
    backend: FakeBackend, tmp_path: Path
) -> None:
    backend.start()
    backend.status = 503
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        told = await report(script, "one", "two")
        assert [answer["status"] for answer in told] == ["queued", "queued"]
        assert told[0]["reason"] == "the backend answered 503"
        assert {post.body["message"] for post in backend.posts} == {"one"}
        backend.status = 204
        sent = backend.wait_until(lambda: "two" in backend.messages)
        assert sent == [*["one"] * (len(sent) - 1), "two"]


@pytest.mark.anyio
async def test_a_backend_that_hangs_does_not_hang_the_caller(
    backend: FakeBackend, tmp_path: Path
) -> None:
    with (
        socket.create_server(("127.0.0.1", backend.port)),
        running(BATTLE, env=settings(backend, tmp_path, patience=0.5)) as script,
    ):
        with anyio.fail_after(DEADLINE):  # the backend never answers
            [told] = await report(script, "one")
        assert (told["status"], told["reason"]) == ("queued", "the backend has not answered yet")
        assert script.stop() == 0


@pytest.mark.anyio
async def test_a_log_folder_that_is_none_is_an_error_and_a_degraded_server(
    backend: FakeBackend, tmp_path: Path
) -> None:
    backend.start()
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with running(BATTLE, env=settings(backend, in_the_way / "log")) as script:
        async with connected(script.url, "http", "legacy") as client:
            arguments = {"battle_id": "b", "message": "m", "reported_by": "r"}
            assert (await client.call_tool("update_battle_process", arguments)).is_error
        assert script.get("/health").json()["status"] == "degraded"
    assert backend.posts == []


@pytest.mark.anyio
async def test_a_refused_event_is_an_error_and_is_kept_and_blocks_nothing(
    backend: FakeBackend, tmp_path: Path
) -> None:
    backend.start()
    backend.statuses["poison"] = 422
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        async with connected(script.url, "http", "legacy") as client:
            arguments = {"battle_id": "b", "message": "poison", "reported_by": "r"}
            result = await client.call_tool("update_battle_process", arguments)
            assert result.is_error
            assert "the backend answered 422" in str(result.content)
            assert (await update(client, "fine"))["status"] == "delivered"
    [kept] = map(json.loads, (tmp_path / "refused.jsonl").read_text().splitlines())
    assert kept["body"]["message"] == "poison"


@pytest.mark.anyio
async def test_torn_and_damaged_lines_cost_only_themselves(
    backend: FakeBackend, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    journal.append(Event("1", "b", {"message": "one"}))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b"\x00\xffgarbage\r with a line end\n")
    journal.append(Event("2", "b", {"message": "two"}))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"event_id": "torn", "battle_id"')
    backend.start()
    with running(BATTLE, env=settings(backend, tmp_path)) as script:
        assert [answer["status"] for answer in await report(script, "three")] == ["delivered"]
    assert backend.wait_for(3) == ["one", "two", "three"]
    assert b"garbage\r with" in (tmp_path / "damaged.jsonl").read_bytes()


@pytest.mark.anyio
async def test_processes_on_one_log_deliver_in_one_order_and_take_over(
    backend: FakeBackend, tmp_path: Path
) -> None:
    env = settings(backend, tmp_path)
    with running(BATTLE, env=env) as first, running(BATTLE, env=env) as second:
        sent: list[str] = []
        told: list[dict[str, Any]] = []

        async def report_to_the_one_that_only_follows(message: str) -> None:
            told.extend(await report(second, message))

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                sent.extend((f"{number} to the first", f"{number} to the second"))
                [queued] = await report(first, sent[-2])
                assert queued["status"] == "queued"  # it knows that the backend is away
                tasks.start_soon(report_to_the_one_that_only_follows, sent[-1])
                await until(lambda: sent[-1] in (tmp_path / "events.jsonl").read_text())
            backend.start()
        assert [answer["status"] for answer in told] == ["delivered"] * 3
        assert backend.messages == sent
        assert [a["status"] for a in await report(first, "7")] == ["delivered"]
        assert [a["status"] for a in await report(second, "8")] == ["delivered"]
        first.kill()
        await report(second, "9")
        assert backend.wait_for(9) == [*sent, "7", "8", "9"]


FULL_DISK = """
import resource, runpy, sys
sys.argv.pop(0)
limit = 8192
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on a file's size")
@pytest.mark.anyio
async def test_a_full_disk_acknowledges_nothing_and_spoils_nothing(
    backend: FakeBackend, tmp_path: Path
) -> None:
    launch = ["-c", FULL_DISK]
    with running(BATTLE, env=settings(backend, tmp_path), launch=launch) as script:
        async with connected(script.url, "http", "legacy") as client:
            await update(client, "before")
            arguments = {"battle_id": "b", "message": "x" * 9000, "reported_by": "r"}
            result = await client.call_tool("update_battle_process", arguments)
            assert result.is_error
            assert "NOT recorded" in str(result.content)
            assert str(tmp_path) not in str(result.content)
            await update(client, "after")
        backend.start()
        assert backend.wait_for(2) == ["before", "after"]


def test_a_backend_url_that_is_none_is_refused_at_the_start() -> None:
    for url in ("localhost:9000", "ftp://x", "http://", "http://x:99999", "http://[::1"):
        with pytest.raises(BackendUrlError):
            Backend(url)
    assert Backend("http://me:secret@host:1/api/?q=1").shown == "http://host:1/api/"


def test_only_204_accepts_and_only_a_fault_of_the_event_refuses() -> None:
    assert judge(204) == Accepted()
    assert {status for status in range(100, 600) if isinstance(judge(status), Away)} >= {
        *(200, 201, 202, 301, 302, 401, 408, 425, 429, 500, 502, 503, 504)
    }
    assert {type(judge(status)) for status in (400, 404, 409, 413, 422)} == {Refused}


def test_backoff_grows_is_bounded_and_differs() -> None:
    assert max(backoff(1) for _ in range(100)) <= 0.2
    assert all(LONGEST_BACKOFF / 2 <= backoff(n) <= LONGEST_BACKOFF for n in (20, 10_000))
    assert len({backoff(3) for _ in range(20)}) > 1


@pytest.mark.anyio
async def test_whose_delivery_it_is_is_known_before_the_first_event(
    backend: FakeBackend, tmp_path: Path
) -> None:
    backend.start()
    patience = Patience(delivering=DEADLINE, following=0.0)  # the latter would be told "queued"
    delivery = Delivery(Journal(tmp_path), Backend(backend.url), patience)
    async with delivery.running():
        assert await delivery.submit(Event("1", "b", {"message": "one"})) == Outcome("delivered")


@pytest.mark.anyio
async def test_a_backend_that_took_an_event_is_back_for_whoever_asks(
    backend: FakeBackend, tmp_path: Path
) -> None:
    delivery = Delivery(Journal(tmp_path), Backend(backend.url), Patience(DEADLINE, DEADLINE))
    async with delivery.running():
        assert (await delivery.submit(Event("1", "b", {"message": "one"}))).status == "queued"
        assert delivery.health().status == "degraded"
        backend.start()
        assert (await delivery.submit(Event("2", "b", {"message": "two"}))).status == "delivered"
        assert delivery.health().status == "ok"


def messages(journal: Journal) -> list[str]:
    return [entry.event.event_id for entry in journal.waiting() if isinstance(entry.event, Event)]


@given(cut=st.integers(0, 400), more=st.lists(st.text(max_size=20), max_size=3))
def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_takes_new_ones(
    tmp_path_factory: pytest.TempPathFactory, cut: int, more: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    ends = [journal.append(Event(str(n), "b", {"message": "m" * n})).offset for n in range(5)]
    file = folder / "events.jsonl"
    file.write_bytes(file.read_bytes()[:cut])
    survivors = [str(n) for n in range(5) if ends[n] <= cut]
    for number, text in enumerate(more):
        journal.append(Event(f"more {number}", "b", {"message": text}))
    assert messages(Journal(folder)) == survivors + [f"more {n}" for n in range(len(more))]


@given(junk=st.binary(max_size=80))
def test_whatever_the_mark_of_delivery_holds_nothing_is_skipped_wrongly(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    journal.append(Event("1", "b", {}))
    (folder / "delivered").write_bytes(junk)
    assert messages(journal) == ["1"]


def test_a_large_settled_journal_starts_afresh_and_a_waiting_one_never_does(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path)
    first = journal.append(Event("1", "b", {"message": "x" * COMPACT_BYTES}))
    second = journal.append(Event("2", "b", {}))
    journal.settle(first)
    journal.compact()
    assert messages(journal) == ["2"]
    journal.settle(second)
    journal.compact()
    assert journal.size() < 1000
    assert journal.is_settled(second)
    third = journal.append(Event("3", "b", {}))
    assert messages(journal) == ["3"]
    assert not journal.is_settled(third)


def test_a_body_that_is_no_json_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Journal(tmp_path).append(Event("1", "b", {"detail": float("nan")}))
