"""run_docker: one command of one agent, understood, run through the engine's API, answered in text.

Above: the tool server. Below: `grammar` (what is meant), `hardening` (what every container is made
with), `ownership` (whose is it), `engine` and `wire` (how it is said), `show` (what is shown).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
import requests
from docker import DockerClient
from docker.errors import APIError, DockerException

from servers.docker_policy import grammar, making, ownership, show
from servers.docker_policy.answers import Answer, Settings, bounded, done, failed
from servers.docker_policy.engine import HOW_TO_GET_ONE, Engine, EngineAway
from servers.docker_policy.hardening import Envelope
from servers.docker_policy.looking import Unknown, ask, find
from servers.docker_policy.wire import Wire
from servers.docker_policy.words import Refused

logger = logging.getLogger(__name__)

_ENGINE_SECONDS = 30.0
_WATCH_SECONDS = 3.0
_GOODBYE_SECONDS = 4.0


class DockerCommands:
    """Runs commands of agents; holds the lifelines of the containers that they leave running."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._lifelines: dict[str, Wire] = {}
        self._creating = anyio.Lock()
        self._here: bool | None = None

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
            if here and not self._here:
                await self._sweep()
            if here and self._lifelines:
                await self._tidy()
            self._here = here
            await anyio.sleep(_WATCH_SECONDS)

    async def _tidy(self) -> None:
        """Let go of lifelines whose containers have ended by themselves."""
        held = set(self._lifelines)  # before the question: one that starts meanwhile is not in both
        try:
            running = await self._engine.call(ownership.running, _ENGINE_SECONDS)
        except (EngineAway, DockerException, requests.RequestException, TimeoutError):
            return
        for container in held - running:
            self._let_go(container)

    async def _sweep(self) -> None:
        try:
            found = await self._engine.call(ownership.sweep, _ENGINE_SECONDS)
        except (EngineAway, DockerException, requests.RequestException, TimeoutError):
            logger.warning("containers of earlier servers could not be looked for", exc_info=True)
        else:
            logger.info("a Docker engine answers", extra={"containers_swept": found})

    async def _goodbye(self) -> None:
        """Letting go of the lifelines ends the containers; removing them is for tidiness."""
        for container in list(self._lifelines):
            self._let_go(container)
        if self._here:
            try:
                await self._engine.call(ownership.remove_own, _GOODBYE_SECONDS)
            except (EngineAway, DockerException, requests.RequestException, TimeoutError):
                logger.warning("containers stay behind, ended", exc_info=True)
        self._engine.forget()

    async def run(self, line: str, agent: str) -> Answer:
        """Run one command line for an agent."""
        try:
            command = grammar.understand(line)
            answer = await self._perform(command, agent)
        except Refused as e:
            logger.info("refused", extra={"agent": agent, "reason": str(e)})
            answer = Answer("refused", stderr=str(e))
        except EngineAway as e:
            answer = Answer("unavailable", stderr=str(e))
        except TimeoutError:
            answer = Answer("timeout", stderr="the Docker engine did not answer in time")
        except APIError as e:
            answer = failed(f"Error response from the engine: {e.explanation or e}")
        except (DockerException, requests.RequestException) as e:
            answer = failed(f"the Docker engine could not be asked: {e}")
        return bounded(answer, self._settings.output)

    async def _perform(self, command: grammar.Command, agent: str) -> Answer:
        if isinstance(command, grammar.Run):
            return await self._run(command, agent)
        if isinstance(command, grammar.Stop):
            return await self._each(command.containers, agent, _stopper(command), command.seconds)
        if isinstance(command, grammar.Rm):
            return await self._each(command.containers, agent, _remover(command), 0)

        def look(client: DockerClient) -> Answer:
            return ask(client, command, agent, self._settings)

        return await self._engine.call(look, _ENGINE_SECONDS)

    async def _each(
        self,
        references: Sequence[str],
        agent: str,
        act: Callable[[DockerClient, dict[str, Any]], str | None],
        seconds: float,
    ) -> Answer:
        """Do the same to several containers; one that fails does not keep the others from it."""
        acted, errors = "", ""
        for reference in references:

            def one(client: DockerClient, reference: str = reference) -> tuple[str, str | None]:
                container = find(client, agent, reference)
                return container["Id"], act(client, container)

            try:
                container, error = await self._engine.call(one, seconds + _ENGINE_SECONDS)
            except Unknown as e:
                error, container = str(e), None
            if error is None:
                self._let_go(container or "")
                acted += f"{reference}\n"
            else:
                errors += f"{error}\n"
        return failed(errors, acted) if errors else done(acted)

    def _let_go(self, container: str) -> None:
        wire = self._lifelines.pop(container, None)
        if wire is not None:
            wire.close()

    async def _run(self, command: grammar.Run, agent: str) -> Answer:
        envelope = making.lowered(self._settings.envelope, command)
        if not self._settings.allowlist.permits(command.image):
            raise Refused(
                f"docker run: the image {command.image} is not one that may be run;"
                f" these may: {self._settings.allowlist}"
            )
        container = await self._created(command, agent, envelope)
        try:
            wire = await self._engine.complete(
                lambda c: making.started(c, container), _ENGINE_SECONDS
            )
        except BaseException:
            await self._removed(container)
            raise
        if command.detach:
            self._lifelines[container] = wire
            return replace(done(f"{container}\n"), container=container)
        return await self._attended(command, container, wire)

    async def _created(self, command: grammar.Run, agent: str, envelope: Envelope) -> str:
        """A container that was inspected and not started.

        One at a time: two that count at once would both find room for the last.
        """
        limit = self._settings.containers

        def create(client: DockerClient) -> str:
            making.check_room(client, agent, command, limit)
            return making.create(client, command, agent, envelope)

        async with self._creating:
            return await self._engine.complete(create, _ENGINE_SECONDS)

    async def _removed(self, container: str) -> None:
        with suppress(EngineAway, DockerException, requests.RequestException, TimeoutError):
            await self._engine.complete(lambda c: ownership.remove(c, container), _ENGINE_SECONDS)

    async def _attended(self, command: grammar.Run, container: str, wire: Wire) -> Answer:
        """A container in the foreground: it ends with its program, its time, or its call."""
        try:
            with anyio.move_on_after(self._settings.seconds) as scope:
                await self._engine.call(
                    lambda c: c.api.wait(container, timeout=int(self._settings.seconds) + 5),
                    self._settings.seconds + 5,
                )
            wire.close()
            answer = await self._engine.call(lambda c: making.ended(c, container), _ENGINE_SECONDS)
        finally:
            wire.close()
            await self._finished(container, remove=command.remove)
        if scope.cancelled_caught:
            note = f"the container was ended after {self._settings.seconds:g} s"
            answer = replace(answer, status="timeout", stderr=f"{answer.stderr}{note}\n")
        return replace(answer, container=None if command.remove else container)

    async def _finished(self, container: str, *, remove: bool) -> None:
        """In any case not running, whoever ended it."""
        if remove:
            await self._removed(container)
            return
        with suppress(EngineAway, DockerException, requests.RequestException, TimeoutError):
            await self._engine.complete(lambda c: making.kill(c, container), _ENGINE_SECONDS)


def _stopper(command: grammar.Stop) -> Callable[[DockerClient, dict[str, Any]], str | None]:
    def stop(client: DockerClient, container: dict[str, Any]) -> str | None:
        client.api.stop(container["Id"], timeout=command.seconds)
        return None

    return stop


def _remover(command: grammar.Rm) -> Callable[[DockerClient, dict[str, Any]], str | None]:
    def rm(client: DockerClient, container: dict[str, Any]) -> str | None:
        if container["State"] == "running" and not command.force:
            name = show.name_of(container)
            return f"Error: {name} is running: stop it first, or use rm --force"
        ownership.remove(client, container["Id"])
        return None

    return rm
