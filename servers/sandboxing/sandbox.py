"""The door to running code: the best backend that passed its self-test, or a refusal that helps.

Above: the tool servers. Below: `pool`, `sessions`, the backends by way of `candidates`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from servers.sandboxing import metrics
from servers.sandboxing.backend import Backend, Cell, which
from servers.sandboxing.call import Call
from servers.sandboxing.candidates import Candidates, candidates
from servers.sandboxing.conversation import Job
from servers.sandboxing.outcome import Outcome, SandboxBroken, refused
from servers.sandboxing.pool import Pool
from servers.sandboxing.selftest import shortfalls, weaknesses
from servers.sandboxing.sessions import SessionRefused, Sessions, Workspace
from servers.sandboxing.settings import Settings

logger = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS = 15.0
_CHOICE_SECONDS = 300.0
_SWEEP_SECONDS = 60.0
_WATCH_SECONDS = 3.0
_FURTHER_TRIES = 2

HOW_TO_GET_ONE = (
    "install bubblewrap on Linux (`apt install bubblewrap`, `dnf install bubblewrap`, with user"
    " namespaces allowed), or start a Docker engine and get it an image: `mcpcp sandbox pull`"
    " (on Linux also without a registry: `python -m servers.sandboxing.image`)"
)


class Sandbox:
    """Runs code in sandboxes, each made for one call; never in this process, never unprotected."""

    def __init__(self, settings: Settings, offered: Candidates = candidates) -> None:
        self._settings = settings
        self._offered = offered
        self._backend: Backend | None = None
        self._pool: Pool | None = None
        self._tasks: TaskGroup | None = None
        self._why_not: list[str] = []
        self._less: Mapping[str, str] = {}
        self._absence: str | None = None
        self._tried = float("-inf")
        self._choosing = anyio.Lock()
        self._places = anyio.CapacityLimiter(settings.at_once)
        self.sessions = Sessions(settings.sessions, settings.session_rules)

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """What `run` needs: chooses a backend, keeps sandboxes ready, ends them on the way out."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._keep_choosing)
                tasks.start_soon(self._keep_watching)
                tasks.start_soon(self._keep_sweeping)
                try:
                    yield
                finally:
                    self._tasks = None
                    tasks.cancel_scope.cancel()
        finally:
            backend, self._backend, self._pool = self._backend, None, None
            if backend is not None:
                with anyio.CancelScope(shield=True):
                    await backend.close()

    async def _keep_choosing(self) -> None:
        """Until there is one: an engine may come up later."""
        while self._backend is None:
            try:
                await self._choose()
            except Exception:
                logger.exception("no backend could be chosen")
            await anyio.sleep(_TRY_AGAIN_SECONDS)

    async def _keep_watching(self) -> None:
        """What was chosen may go away and come back, also while nobody calls."""
        while True:
            await anyio.sleep(_WATCH_SECONDS)
            try:
                await self._watch()
            except Exception:
                logger.exception("the backend can't be watched")

    async def _watch(self) -> None:
        if self._backend is None or self._pool is None or self._tasks is None:
            return
        self._absence = await self._backend.absence()
        for dead in self._pool.renew():
            self._tasks.start_soon(_let_go, dead)
        if self._absence is None:
            await self._backend.trim()

    async def _keep_sweeping(self) -> None:
        while True:
            try:
                self.sessions.expire()
            except OSError:
                logger.exception("sessions can't be swept")
            await anyio.sleep(_SWEEP_SECONDS)

    @property
    def missing(self) -> str | None:
        """Why code can't be run now, and what to do; None when it can."""
        if self._pool is not None:
            return self._absence or self._unmade(self._pool)
        if not self._why_not:
            return "the sandbox's self-test is still running"
        why = "; ".join(self._why_not)
        return f"no sandbox on this machine: {why}. To get one: {HOW_TO_GET_ONE}"

    def _unmade(self, pool: Pool) -> str | None:
        trouble = pool.trouble
        return None if trouble is None else f"sandboxes do not come up, it is tried on: {trouble}"

    async def run(self, call: Call) -> Outcome:
        """Run the code in a fresh sandbox; the first call waits for the self-test."""
        with metrics.Run() as run:
            outcome = await self._run_if_allowed(call)
            run.status = outcome.status
        return outcome

    async def _run_if_allowed(self, call: Call) -> Outcome:
        why_not = self._objection(call)
        if why_not is not None:
            return refused(why_not)
        pool = await self._choose()
        if pool is None:
            return refused(self.missing or "no sandbox")
        if call.session is None:
            return await self._run(pool, self._job(call))
        try:
            async with self.sessions.use(call.session) as workspace:
                return await self._run_in(workspace, pool, call)
        except SessionRefused as e:
            return refused(str(e))

    def _objection(self, call: Call) -> str | None:
        limits = self._settings.limits
        if len(call.code.encode("utf-8", "replace")) > limits.code:
            return f"the code is longer than {limits.code} bytes"
        if call.timeout is not None and not 0 < call.timeout <= limits.longest:
            return f"a timeout is more than 0 and at most {limits.longest:g} seconds"
        for folder in call.packages:
            if folder.parent != self._settings.packages or not folder.is_dir():
                return f"there is no package folder {folder.name!r}: install it again"
        return None

    def _job(self, call: Call, files: tuple[tuple[str, bytes], ...] = ()) -> Job:
        limits = self._settings.limits
        return Job(
            code=call.code,
            limits=replace(limits, timeout=call.timeout or limits.timeout),
            files=files,
            packages=call.packages,
            listener=call.listener,
        )

    async def _run_in(self, workspace: Workspace, pool: Pool, call: Call) -> Outcome:
        files = tuple((path, workspace.read(path)) for path in workspace.entries)
        outcome = await self._run(pool, self._job(call, files))
        try:
            workspace.change([(f.path, f.data) for f in outcome.files], outcome.deleted)
        except SessionRefused as e:
            lost = (*outcome.skipped, f"the session stays as it was: {e}")
            return replace(outcome, skipped=lost, truncated=True)
        return outcome

    async def _run(self, pool: Pool, job: Job) -> Outcome:
        with anyio.move_on_after(self._settings.patience) as queue:
            await self._places.acquire_on_behalf_of(queue)
        if queue.cancelled_caught:
            return refused("all sandboxes are busy: try again later")
        try:
            return await self._run_anew(pool, job)
        except (SandboxBroken, OSError) as e:
            logger.exception("a sandbox did not come up")
            return refused(f"the sandbox did not come up: {e}")
        finally:
            self._places.release_on_behalf_of(queue)

    async def _run_anew(self, pool: Pool, job: Job) -> Outcome:
        """Where a sandbox went away before it was told to begin, another one is made."""
        with pool.running():
            cell = await pool.take(job.packages)
            for _ in range(_FURTHER_TRIES):
                try:
                    return await self._run_in_cell(cell, job)
                except SandboxBroken as e:
                    logger.warning("once more in a new sandbox", extra={"error": str(e)})
                    cell = await pool.fresh(job.packages)
            return await self._run_in_cell(cell, job)

    async def _run_in_cell(self, cell: Cell, job: Job) -> Outcome:
        try:
            outcome = await cell.run(job)
            return replace(outcome, isolation={**outcome.isolation, **self._less})
        finally:
            if self._tasks is not None:  # nobody has to wait for it
                self._tasks.start_soon(_let_go, cell)
            else:
                await _let_go(cell)

    async def _choose(self) -> Pool | None:
        if self._pool is not None:
            return self._pool
        async with self._choosing:
            if self._pool is None and time.monotonic() - self._tried >= _TRY_AGAIN_SECONDS:
                self._backend, self._why_not = await self._try_all()
                self._tried = time.monotonic()
                if self._backend is not None:
                    self._pool = self._fill(self._backend)
        return self._pool

    def _fill(self, backend: Backend) -> Pool:
        if self._tasks is None:
            raise RuntimeError("a sandbox runs code inside `async with sandbox.ready()`")
        pool = Pool(backend, self._settings.limits, min(self._settings.warm, backend.most_warm))
        self._tasks.start_soon(pool.run)
        self._tasks.start_soon(self._take_back, backend)
        metrics.watch_pool(lambda: pool.ready)
        return pool

    async def _try_all(self) -> tuple[Backend | None, list[str]]:
        why_not = []
        offers = self._offered(self._settings)
        while backend := await anyio.to_thread.run_sync(next, offers, None):
            found = await self._weaknesses(backend)
            if not found:
                logger.info("sandbox", extra={"backend": backend.name, **backend.isolation})
                return backend, []
            logger.warning("not usable", extra={"backend": backend.name, "found": found})
            why_not.append(f"{which(backend)}: {', '.join(found)}")
        images = " or ".join(self._settings.images)
        nothing = f"neither bubblewrap nor a Docker engine with {images} was found"
        return None, why_not or [nothing]

    async def _weaknesses(self, backend: Backend) -> list[str]:
        """What its self-test found; a backend that has any is closed."""
        found = ["its self-test did not end in time"]
        try:
            with anyio.move_on_after(_CHOICE_SECONDS):
                found = await weaknesses(backend)
        finally:
            if found:
                with anyio.CancelScope(shield=True):
                    await backend.close()
        return found

    async def _take_back(self, backend: Backend) -> None:
        """What it claims and has not; nobody's call waits for that."""
        try:
            self._less = await shortfalls(backend)
        except Exception:
            logger.exception("the self-test did not come to its end")
        if self._less:
            logger.warning("not as it claims", extra={"backend": backend.name, **self._less})


async def _let_go(cell: Cell) -> None:
    """Discard it; what goes wrong then is nobody's answer, and ends no other call."""
    try:
        await cell.discard()
    except Exception:
        logger.exception("a sandbox was not discarded")
