"""run_docker: one command of one agent, understood, run through the engine's API, answered in text.

Above: the tool server. Below: `grammar` (what is meant), `hardening` (what every container is made
with), `ownership` (whose is it), `engine` and `wire` (how it is said), `show` (what is shown).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import requests
from docker import DockerClient
from docker.errors import APIError, DockerException

from servers.docker_policy import container, grammar, making, ownership, show
from servers.docker_policy.answers import Answer, Settings, bounded, done, failed
from servers.docker_policy.engine import HOW_TO_GET_ONE, Engine, EngineAway
from servers.docker_policy.looking import Unknown, ask, find
from servers.docker_policy.subcommands import Command, Restart, Rm, Run, Start, Stop
from servers.docker_policy.wire import Wire
from servers.docker_policy.words import Refused

logger = logging.getLogger(__name__)

_ENGINE_SECONDS = 60.0
_WATCH_SECONDS = 3.0
_GOODBYE_SECONDS = 4.0

Found = dict[str, Any]
"""A container as the engine lists it."""

Act = Callable[[Found], Awaitable[None]]


class _Impossible(Exception):
    """What was asked for can't be done to this container; the message says so as the CLI would."""


class DockerCommands:
    """Runs commands of agents; holds the lifelines of the containers that they leave running."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._lifelines: dict[str, Wire] = {}
        self._making = anyio.Lock()
        self._here: bool | None = None
        self._swept = False
        self._has_made = False

    @property
    def missing(self) -> str | None:
        """Why no command can be run now, and what to do; None when it can."""
        if self._here is None:
            return "looking for a Docker engine"
        return None if self._here else HOW_TO_GET_ONE

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Watch for the engine while the context lasts; end this process's containers after it."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._goodbye()

    async def _watch(self) -> None:
        """Know whether an engine is there; sweep what dead servers left whenever one appears."""
        while True:
            here = await anyio.to_thread.run_sync(self._engine.ping, abandon_on_cancel=True)
            if not here:
                self._swept = False
            elif not self._swept:
                self._swept = await self._sweep()
            if here and self._lifelines:
                await self._tidy()
            self._here = here
            await anyio.sleep(_WATCH_SECONDS)

    async def _tidy(self) -> None:
        """Let go of lifelines whose containers have ended by themselves."""
        held = dict(self._lifelines)  # before the question: what starts meanwhile has another wire
        try:
            running = await self._engine.call(ownership.running, _ENGINE_SECONDS)
        except (EngineAway, DockerException, requests.RequestException, TimeoutError):
            return
        for identity, wire in held.items():
            if identity not in running and self._lifelines.get(identity) is wire:
                self._let_go(identity)

    async def _sweep(self) -> bool:
        """Whether the engine took it: one that is too busy now is asked again."""
        try:
            found = await self._engine.call(ownership.sweep, _ENGINE_SECONDS)
        except (EngineAway, DockerException, requests.RequestException, TimeoutError):
            logger.warning("containers of earlier servers could not be looked for", exc_info=True)
            return False
        logger.info("a Docker engine answers", extra={"containers_swept": found})
        return True

    async def _goodbye(self) -> None:
        """Letting go of the lifelines ends the containers; removing them is for tidiness."""
        for held in list(self._lifelines):
            self._let_go(held)
        if self._has_made:
            try:
                await self._engine.call(ownership.remove_own, _GOODBYE_SECONDS)
            except (EngineAway, DockerException, requests.RequestException, TimeoutError):
                logger.warning("containers stay behind, ended", exc_info=True)
        self._engine.close()

    async def run(self, line: str, agent: str) -> Answer:
        """Run one command line for an agent."""
        try:
            command = grammar.understand(line)
            answer = await self._perform(command, agent)
        except Refused as e:
            logger.info("refused", extra={"agent": agent, "reason": str(e)})
            answer = Answer(status="refused", stderr=str(e))
        except EngineAway as e:
            answer = Answer(status="unavailable", stderr=str(e))
        except TimeoutError:
            answer = Answer(status="timeout", stderr="the Docker engine did not answer in time")
        except APIError as e:
            answer = failed(f"Error response from the engine: {e.explanation or e}")
        except (DockerException, requests.RequestException) as e:
            answer = failed(f"the Docker engine could not be asked: {e}")
        return bounded(answer, self._settings.output)

    async def _perform(self, command: Command, agent: str) -> Answer:
        match command:
            case Run():
                return await self._run(command, agent)
            case Start():
                return await self._each(command.containers, agent, self._start)
            case Stop(seconds=seconds):
                return await self._each(command.containers, agent, partial(self._stop, seconds))
            case Restart(seconds=seconds):
                return await self._each(command.containers, agent, partial(self._restart, seconds))
            case Rm(force=force):
                return await self._each(command.containers, agent, partial(self._rm, force))

        def look(client: DockerClient) -> Answer:
            return ask(client, command, agent, self._settings)

        return await self._engine.call(look, _ENGINE_SECONDS)

    async def _each(self, references: Sequence[str], agent: str, act: Act) -> Answer:
        """Do the same to several containers; one that fails does not keep the others from it."""
        acted, errors = "", ""
        for reference in references:
            try:
                await act(
                    await self._engine.call(partial(_found, agent, reference), _ENGINE_SECONDS)
                )
            except (Unknown, _Impossible) as e:
                errors += f"{e}\n"
            else:
                acted += f"{reference}\n"
        return failed(errors, acted) if errors else done(acted)

    async def _start(self, found: Found) -> None:
        """In the background, with a new lifeline, which nobody else may be making just now."""
        async with self._making:
            if await self._engine.call(partial(_is_running, found["Id"]), _ENGINE_SECONDS):
                return
            self._let_go(found["Id"])
            start = partial(container.start, container=found["Id"], output=False)
            self._lifelines[found["Id"]] = await self._engine.complete(start, _ENGINE_SECONDS)

    async def _stop(self, seconds: int, found: Found) -> None:
        def stop(client: DockerClient) -> None:
            client.api.stop(found["Id"], timeout=seconds)

        await self._engine.call(stop, seconds + _ENGINE_SECONDS)
        self._let_go(found["Id"])

    async def _restart(self, seconds: int, found: Found) -> None:
        """Not by the engine's own restart: nobody would hold the lifeline of what it starts."""
        if await self._engine.call(partial(_goes_when_it_ends, found["Id"]), _ENGINE_SECONDS):
            name = show.name_of(found)
            raise _Impossible(f"Error: {name} is removed when it ends (--rm): run it anew")
        await self._stop(seconds, found)
        await self._start(found)

    async def _rm(self, force: bool, found: Found) -> None:
        if found["State"] == "running" and not force:
            name = show.name_of(found)
            raise _Impossible(f"Error: {name} is running: stop it first, or use rm --force")
        await self._engine.call(lambda c: ownership.remove(c, found["Id"]), _ENGINE_SECONDS)
        self._let_go(found["Id"])

    def _let_go(self, held: str) -> None:
        wire = self._lifelines.pop(held, None)
        if wire is not None:
            wire.close()

    async def _run(self, command: Run, agent: str) -> Answer:
        making.lowered(self._settings.envelope, command)
        if not self._settings.allowlist.names(command.image):
            raise Refused(
                f"docker run: the image {command.image} is not one that may be run;"
                f" these may: {self._settings.allowlist}"
            )
        made = await self._created(command, agent)
        start = partial(container.start, container=made, output=False)
        try:
            wire = await self._engine.complete(start, _ENGINE_SECONDS)
        except BaseException:
            await self._removed(made)
            raise
        if command.detach:
            self._lifelines[made] = wire
            return done(f"{made}\n").model_copy(update={"container": made})
        return await self._attended(command, made, wire)

    async def _created(self, command: Run, agent: str) -> str:
        """A container that was inspected and not started.

        One at a time: two that count at once would both find room for the last.
        """

        def create(client: DockerClient) -> str:
            making.check_room(client, agent, command, self._settings.containers)
            return making.create(client, command, agent, self._settings)

        async with self._making:
            self._has_made = True
            return await self._engine.complete(create, _ENGINE_SECONDS)

    async def _removed(self, made: str) -> None:
        with suppress(EngineAway, DockerException, requests.RequestException, TimeoutError):
            await self._engine.complete(lambda c: ownership.remove(c, made), _ENGINE_SECONDS)

    async def _attended(self, command: Run, made: str, wire: Wire) -> Answer:
        """A container in the foreground: it ends with its program, its time, or its call."""
        try:
            with anyio.move_on_after(self._settings.seconds) as scope:
                await self._engine.call(
                    lambda c: c.api.wait(made, timeout=int(self._settings.seconds) + 5),
                    self._settings.seconds + 5,
                )
            wire.close()
            answer = await self._engine.call(lambda c: making.ended(c, made), _ENGINE_SECONDS)
        finally:
            wire.close()
            await self._finished(made, remove=command.remove)
        if scope.cancelled_caught:
            note = f"the container was ended after {self._settings.seconds:g} s"
            late = {"status": "timeout", "stderr": f"{answer.stderr}{note}\n"}
            answer = answer.model_copy(update=late)
        return answer.model_copy(update={"container": None if command.remove else made})

    async def _finished(self, made: str, *, remove: bool) -> None:
        """In any case not running, whoever ended it."""
        if remove:
            await self._removed(made)
            return
        with suppress(EngineAway, DockerException, requests.RequestException, TimeoutError):
            await self._engine.complete(lambda c: container.kill(c, made), _ENGINE_SECONDS)


def _found(agent: str, reference: str, client: DockerClient) -> Found:
    return find(client, agent, reference)


def _is_running(identity: str, client: DockerClient) -> bool:
    return bool(client.api.inspect_container(identity)["State"]["Running"])


def _goes_when_it_ends(identity: str, client: DockerClient) -> bool:
    return bool(client.api.inspect_container(identity)["HostConfig"]["AutoRemove"])
