"""Sessions on disk: whose they are, their caps, their end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from servers.sandboxing.sessions import SessionKey, SessionRefused, SessionRules, Sessions

pytestmark = pytest.mark.anyio

KEY = SessionKey("agent", "work")
RULES = SessionRules(per_agent=2, total=3, idle=100.0, disk=50, file_size=20, file_count=4)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(tmp_path: Path, clock: Clock) -> Sessions:
    return Sessions(tmp_path / "sessions", RULES, clock)


async def make(sessions: Sessions, agent: str, name: str) -> None:
    async with sessions.use(SessionKey(agent, name)):
        pass


async def test_files_are_kept_and_are_read_by_another_process(
    sessions: Sessions, tmp_path: Path, clock: Clock
) -> None:
    async with sessions.use(KEY) as workspace:
        workspace.change([("d/a.txt", b"one"), ("b", b"")])
        workspace.change([("d/a.txt", b"two")], ["b"])
    async with Sessions(tmp_path / "sessions", RULES, clock).use(KEY) as again:
        assert list(again.entries) == ["d/a.txt"] and again.read("d/a.txt") == b"two"
    [folder] = (tmp_path / "sessions").iterdir()
    assert len(list(folder.iterdir())) == 2, "the manifest and one blob"


async def test_names_that_were_chosen_inside_are_no_names_on_the_host(
    sessions: Sessions, tmp_path: Path
) -> None:
    async with sessions.use(KEY) as workspace:
        workspace.change([("CON", b"x"), ("-rf", b"y")])
    names = [path.name for path in tmp_path.rglob("*")]
    assert "CON" not in names and "-rf" not in names and "work" not in names


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([("../a", b"")], "relative"),
        ([("a", b"x" * 21)], "larger"),
        ([(name, b"") for name in "abcd"], "at most 4 files"),
        ([("a", b"x" * 20), ("b", b"x" * 20), ("c", b"x" * 20)], "at most 50 bytes"),
        ([("a", b""), ("a/b", b"")], "is a file"),
    ],
)
async def test_a_change_over_the_caps_changes_nothing(
    files: list[tuple[str, bytes]], why: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with sessions.use(KEY) as workspace:
        workspace.change([("kept", b"1")])
        before = sorted(path.name for path in tmp_path.rglob("*"))
        with pytest.raises(SessionRefused, match=why):
            workspace.change(files)
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
        assert workspace.read("kept") == b"1"


async def test_an_agent_sees_only_its_own(sessions: Sessions) -> None:
    await make(sessions, "one", "work")
    await make(sessions, "two", "other")
    assert [info.name for info in sessions.of("one")] == ["work"]
    assert not await sessions.delete(SessionKey("one", "other"))
    with pytest.raises(SessionRefused, match="no session"):
        async with sessions.existing(SessionKey("one", "other")):
            pass


async def test_there_are_only_so_many(sessions: Sessions) -> None:
    await make(sessions, "one", "a")
    await make(sessions, "one", "b")
    with pytest.raises(SessionRefused, match="delete one first"):
        await make(sessions, "one", "c")
    await make(sessions, "two", "a")
    with pytest.raises(SessionRefused, match="too many sessions"):
        await make(sessions, "three", "a")
    assert await sessions.delete(SessionKey("one", "a"))
    await make(sessions, "three", "a")


async def test_an_idle_session_expires_unless_it_is_in_use(
    sessions: Sessions, clock: Clock
) -> None:
    await make(sessions, "one", "idle")
    async with sessions.use(KEY):
        clock.now += 101
        sessions.expire()
        assert [info.name for info in sessions.of("agent")] == ["work"]
        assert sessions.of("one") == []
    clock.now += 99
    assert len(sessions.of("agent")) == 1, "its end was a use"


async def test_calls_take_turns_and_give_up_in_time(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, replace(RULES, patience=0.1))
    async with sessions.use(KEY):
        with pytest.raises(SessionRefused, match="busy"):
            await make(sessions, KEY.agent, KEY.name)
    seen: list[bytes] = []
    patient = Sessions(tmp_path, RULES)

    async def append(n: int) -> None:
        async with patient.use(KEY) as workspace:
            content = workspace.read("n") if "n" in workspace.entries else b""
            await anyio.lowlevel.checkpoint()
            workspace.change([("n", content + b"%d" % n)])
            seen.append(content)

    async with anyio.create_task_group() as tasks:
        for n in range(5):
            tasks.start_soon(append, n)
    assert sorted(map(len, seen)) == [0, 1, 2, 3, 4]


async def test_a_manifest_that_can_not_be_read_is_no_session(
    sessions: Sessions, tmp_path: Path
) -> None:
    await make(sessions, "agent", "work")
    [manifest] = tmp_path.rglob("manifest.json")
    manifest.write_text("{")
    assert sessions.of("agent") == []
    await make(sessions, "agent", "work")
    assert [info.name for info in sessions.of("agent")] == ["work"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 300, "a\nb"])
async def test_a_name_that_is_none_is_refused(name: str, sessions: Sessions) -> None:
    with pytest.raises(SessionRefused, match="no name"):
        await make(sessions, "agent", name)
