"""Starts `facts.py` by zygote and by spawn, in a process that may become a subreaper; prints JSON.

Its one argument is the drill to run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from mcpcp.processes import Launch, become_subreaper, kill, kill_everything_below_us
from mcpcp.supervisor.forking import Child, Launcher, Zygote
from mcpcp.supervisor.reaper import Reaper

PATIENCE = 120.0
"""Seconds for a zygote that is only slow."""
FACTS = Path(__file__).with_name("facts.py")


class Nursery:
    def __init__(self, *preload: str, patience: float = PATIENCE) -> None:
        self.base = dict(os.environ)
        self.orphans: list[int] = []
        self.reaper = Reaper(self.orphans.append)
        self.zygote = Zygote(
            self.reaper,
            self.base,
            Path.cwd(),
            lambda: os.dup(2),
            ("json", *preload),
            patience=patience,
        )
        self.launcher = Launcher(self.reaper, self.zygote, self.base)
        self.spawner = Launcher(self.reaper, None, self.base)

    @contextlib.asynccontextmanager
    async def warm(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.zygote.run())
            yield
            running.cancel()

    async def start(self, launcher: Launcher, *words: str) -> tuple[Child, int]:
        """The child, and the read end of its output."""
        read_end, write_end = os.pipe()
        secret, secret_end = os.pipe()
        os.write(secret_end, b"secret\n")
        os.close(secret_end)
        env = {**self.base, "ENTRY": "a b=c\n"}
        what = ("-m", FACTS.stem) if words[:1] == ("module",) else (str(FACTS),)
        argv = (sys.executable, *what, "--flag", "ä b", *words)
        launch = Launch("facts", argv, env, FACTS.parent, write_end, {"SECRET_FD": secret})
        try:
            return await launcher.start(launch), read_end
        finally:
            os.close(write_end)
            os.close(secret)

    async def facts(self, launcher: Launcher, *words: str) -> dict[str, Any]:
        child, output = await self.start(launcher, *words)
        code = await child.ended
        with open(output) as file:  # noqa: PTH123
            first, *rest = file.read().splitlines()
        more = {"code": code, "forked": child.forked, "ours": child.pid, "rest": rest}
        return {**json.loads(first), **more, "is_child": json.loads(first)["parent"] == os.getpid()}


async def same() -> Any:
    """What a forked and a spawned process find."""
    nursery = Nursery()
    async with nursery.warm():
        words: list[list[str]] = [["exit"], ["raise"], [], ["module"]]
        forked = [await nursery.facts(nursery.launcher, *w) for w in words]
        spawned = [await nursery.facts(nursery.spawner, *w) for w in words]
    return {"forked": forked, "spawned": spawned}


async def outlives() -> Any:
    """Whether a server lives on without its zygote, and what its own end is told as."""
    nursery = Nursery()
    async with nursery.warm():
        child, output = await nursery.start(nursery.launcher, "wait")
        await asyncio.to_thread(os.read, output, 65536)
        first = nursery.zygote.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        meanwhile = await nursery.facts(nursery.launcher)
        while nursery.zygote.pid in (None, first):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        lived = not child.ended.done()
        kill(child.pid)
        return {
            "lived": lived,
            "meanwhile": meanwhile["forked"],
            "code": await child.ended,
        }


async def hangs() -> Any:
    """What happens when the zygote is stopped; the first one may be slow to answer as well."""
    nursery = Nursery(patience=3)
    async with nursery.warm():
        await nursery.facts(nursery.launcher)
        while (pid := nursery.zygote.pid) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGSTOP)
        facts = await nursery.facts(nursery.launcher)
        return {"forked": facts["forked"], "code": facts["code"]}


async def threads() -> Any:
    """A module that starts a thread makes forking unsafe: everything is spawned."""
    sys.path.insert(0, str(FACTS.parent))
    os.environ["PYTHONPATH"] = str(FACTS.parent)
    nursery = Nursery("threading_module")
    async with nursery.warm():
        facts = await nursery.facts(nursery.launcher)
        return {"forked": facts["forked"], "code": facts["code"]}


async def main() -> None:
    async with asyncio.timeout(2 * PATIENCE):
        print(json.dumps(await globals()[sys.argv[1]]()))


if __name__ == "__main__":
    become_subreaper()
    try:
        asyncio.run(main())
    finally:
        kill_everything_below_us("")
