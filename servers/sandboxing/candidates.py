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
    bounded, bubblewraps = _bubblewraps(settings) if wanted != "docker" else (False, [])
    if bounded:
        yield from bubblewraps
    if wanted != "bubblewrap":
        yield from _containers(settings)
    if not bounded:
        yield from bubblewraps


def _bubblewraps(settings: Settings) -> tuple[bool, list[Backend]]:
    """Whether the sum of a sandbox's memory is bounded, and a backend for each Python."""
    if sys.platform != "linux":
        return False, []
    from servers.sandboxing import bubblewrap, cgroup

    path = bubblewrap.find_bwrap()
    if path is None:
        return False, []
    groups = cgroup.find()
    if groups is not None:
        groups.sweep()
    scope = groups is None and cgroup.has_scopes()
    pythons = bubblewrap.interpreters(settings.python, libraries())
    return groups is not None or scope, [
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


def _containers(settings: Settings) -> Iterator[Backend]:
    from servers.sandboxing.containers import Containers  # slow to import, seldom needed

    yield from Containers.find(settings.images, settings.runtime, settings.imports)
