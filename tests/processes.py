"""Processes that may end while a test looks at them: one that has gone has no name and no state."""

from __future__ import annotations

import contextlib

import psutil


def below(pid: int) -> list[psutil.Process]:
    """Every process under `pid`; none where that one has gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def name(process: psutil.Process) -> str:
    """Its name now; empty once it has gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.name())
    return ""


def command(process: psutil.Process) -> list[str]:
    """Its words; none once it has gone, or while it is a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return list(process.cmdline())
    return []


def alive(pid: int) -> bool:
    """Whether it runs: not gone, and no zombie that somebody has yet to reap."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False
