"""Containers that are kept, as tests see them from outside, and code that leaves a mark there."""

from __future__ import annotations

import os

import anyio.to_thread
import psutil
from docker.errors import NotFound

from servers.docker_policy import ownership
from servers.docker_policy.engine import Engine
from servers.sandboxing.outcome import MIB, Limits
from tests.servers.harness import DEADLINE

LIMITS = Limits(timeout=DEADLINE, memory=96 * MIB, disk=16 * MIB, scratch=4 * MIB)
SURVIVOR = f"mcpcp{os.getpid()}"

TOOLS = f"""
import ctypes, errno, mmap, os, resource, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, {SURVIVOR.encode()!r})
def attempt(do, *arguments):
    try: return do(*arguments)
    except (OSError, ValueError, OverflowError): pass
"""


def containers() -> set[str]:
    """Those that this process made, in the engine of DOCKER_HOST."""
    engine = Engine()
    try:
        label = f"{ownership.MAKER}={ownership.maker()}"
        found = engine.client().api.containers(all=True, filters={"label": label})
        return {str(container["Id"]) for container in found}
    finally:
        engine.close()


async def made() -> set[str]:
    return await anyio.to_thread.run_sync(containers)


def survivors() -> list[psutil.Process]:
    """The processes that run TOOLS, in whatever container."""
    return [p for p in psutil.process_iter(["name"]) if p.info["name"] == SURVIVOR]


def inside(container: str) -> dict[str, list[psutil.Process]]:
    """The processes of a container by what they are; none where it is being made or removed."""
    found: dict[str, list[psutil.Process]] = {"porter": [], "maker": [], "sandbox": []}
    engine = Engine()
    try:
        state = engine.client().api.inspect_container(container)["State"]
        if state["Pid"]:
            porter = psutil.Process(state["Pid"])
            children = porter.children()
            found = {"porter": [porter], "maker": children[:1], "sandbox": children[1:]}
    except (NotFound, psutil.NoSuchProcess):
        pass
    finally:
        engine.close()
    return found
