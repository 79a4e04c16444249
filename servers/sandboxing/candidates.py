"""The backends that this machine may have, best first; whether they hold is `selftest`'s to say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from servers.sandboxing.backend import Backend
from servers.sandboxing.libraries import libraries
from servers.sandboxing.settings import Settings

Candidates = Callable[[Settings], Iterator[Backend]]


def candidates(settings: Settings) -> Iterator[Backend]:
    """bubblewrap where memory can be bounded as a whole, Docker, bubblewrap where it can't.

    Blocks while it looks for control groups and engines.
    """
    wanted = settings.backend
    bounded, others = _bubblewraps(settings) if wanted != "docker" else ([], [])
    yield from bounded
    if wanted != "bubblewrap":
        yield from _containers(settings)
    yield from others


def _bubblewraps(settings: Settings) -> tuple[list[Backend], list[Backend]]:
    """Those that bound the sum of a sandbox's memory and those that don't, one for each Python."""
    if sys.platform != "linux":
        return [], []
    from servers.sandboxing import bubblewrap, cgroup

    path = bubblewrap.find_bwrap()
    if path is None:
        return [], []
    pythons = list(bubblewrap.interpreters(settings.python, libraries()))

    def each(groups: cgroup.Groups | None, *, scope: bool = False) -> list[Backend]:
        return [
            bubblewrap.Bubblewrap(
                path,
                python,
                groups,
                scope=scope,
                packages=settings.packages,
                imports=settings.imports,
            )
            for python in pythons
        ]

    scoped = each(None, scope=True) if cgroup.has_scopes() else []
    groups = cgroup.find()
    if groups is None:
        return scoped, each(None)
    groups.sweep()
    return scoped + each(groups), []


def _containers(settings: Settings) -> Iterator[Backend]:
    from servers.sandboxing import choosing, engines, pinning  # slow to import, seldom needed

    try:
        pin = choosing.pin_of(settings)
    except pinning.BadPin as e:
        yield choosing.Unusable("docker", str(e))
        return
    images = choosing.wanted(settings, pin)
    found = False
    for backend in engines.find(
        images, settings.runtime, settings.imports, settings.packages, settings.at_once
    ):
        found = True
        yield backend
    why = None if found else choosing.why_none(settings, pin)
    if why is not None:
        yield choosing.Unusable("docker", why)
