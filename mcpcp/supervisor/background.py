"""A fleet in the background: started by whichever client comes first, outliving it.

Above: `mcpcp stdio` and `mcpcp up --background`. `ensure_fleet` imports little: a relay must be up
in 0.1 s where a fleet runs. The fleet itself begins in `main`, in a process of its own session.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mcpcp.config.places import runtime_dir
from mcpcp.control import CONTROL_SOCKET, GATEWAY_SOCKET, ControlClient, connect_private
from mcpcp.errors import DeadlineExceeded, FleetError, McpcpError, Unavailable
from mcpcp.files import locked_folder
from mcpcp.fleet import ProcessState
from mcpcp.supervisor import lock

PATIENCE = 120.0
"""Seconds until a fleet must answer; one that can't start says so at once, whatever this is."""
LOG_LIMIT = 1024 * 1024
MODULE = "mcpcp.supervisor.background"


@dataclass(frozen=True, slots=True)
class Started:
    """A fleet just started: its first process, its log, and where its lines begin there."""

    pid: int
    log: Path
    offset: int


def ensure_fleet(config: Path, patience: float = PATIENCE) -> Path:
    """The runtime folder of `config`'s fleet, which answers; it is started where none runs.

    However many clients call this at once, one fleet starts. Raises FleetError with the reason.
    """
    runtime = runtime_dir(config)
    if answers(runtime):
        return runtime
    deadline = time.monotonic() + patience
    try:
        with locked_folder(runtime, patience):
            _start_and_wait(config, runtime, deadline)
    except TimeoutError:
        raise DeadlineExceeded(
            f"another client has been starting the servers of {config} for {patience:.0f} s"
        ) from None
    return runtime


def answers(runtime: Path) -> bool:
    """Whether the fleet of that folder takes clients now."""
    return _listens(runtime / GATEWAY_SOCKET) and _listens(runtime / CONTROL_SOCKET)


def _listens(path: Path) -> bool:
    try:
        connect_private(path).close()
    except Unavailable:
        return False
    return True


def _start_and_wait(config: Path, runtime: Path, deadline: float) -> None:
    started: Started | None = None
    pause = 0.005
    while not answers(runtime):
        if started is None or not _alive(started.pid):
            # A fleet that is starting or stopping holds its lock: it will answer, or make room.
            if not lock.is_held(runtime):
                if started:
                    raise FleetError(f"the servers of {config} did not start{_tail(started)}")
                started = _start(config)
            elif started:
                started = None
        _raise_if_hopeless(runtime)
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"the servers of {config} are not up yet{_tail(started)}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def _raise_if_hopeless(runtime: Path) -> None:
    """A gateway that can't start, as where its port is taken, says more than a timeout would."""
    try:
        with ControlClient.connect(runtime) as client:
            gateway = client.ask("status")["gateway"]
    except McpcpError:
        return
    if gateway.get("state") == ProcessState.FATAL:
        raise FleetError(f"the gateway can't start: {gateway.get('error')}")


def _start(config: Path) -> Started:
    command = [sys.executable, "-m", MODULE, str(config)]
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    try:
        starter = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            creationflags=flags,
        )
        output, problem = _hear(starter)
    except (OSError, subprocess.SubprocessError) as error:
        raise FleetError(f"{command[0]} can't be started: {error}") from error
    if not output:
        why = problem.decode("utf-8", "replace").strip()
        raise FleetError(why or f"{' '.join(command)} failed without a word")
    answer = json.loads(output)
    return Started(answer["pid"], Path(answer["log"]), answer["offset"])


def _hear(starter: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What it said on stdout and stderr; both end when the fleet detaches."""
    if sys.platform != "win32":
        return starter.communicate(timeout=PATIENCE)
    assert starter.stdout and starter.stderr  # noqa: S101  Popen made the pipes
    output = starter.stdout.readline()
    problem = b"" if output else starter.stderr.read()
    starter.returncode = 0  # there it is the fleet itself, and nobody's to wait for
    return output, problem


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _tail(started: Started | None) -> str:
    if started is None:
        return ""
    try:
        with started.log.open("rb") as log:
            log.seek(started.offset)
            lines = log.read(LOG_LIMIT).decode("utf-8", "replace").splitlines()
    except OSError:
        return f" ({started.log} has more)"
    return f"; {started.log} says:\n" + "\n".join(f"    {line}" for line in lines[-12:])


def main(config: Path) -> int:
    """Be the fleet's guard in a process that nothing ties to its starter.

    The starter reads one JSON line about that process; what is wrong with the config, on stderr.
    """
    from mcpcp.supervisor.guard import run_guard
    from mcpcp.supervisor.starting import prepare

    try:
        prepared = prepare(config, background=True)
    except McpcpError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    log = _open_log(prepared.config.data_dir / "logs" / "fleet.log")
    _detach(log)
    os.chdir(config.parent)  # not the client's folder, which may be removed
    try:
        return run_guard(prepared.options)
    except McpcpError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    log = path.open("ab", buffering=0)
    log.seek(0, os.SEEK_END)
    return log


def _detach(log: IO[bytes]) -> None:
    """Leave the starter: its child ends here, and a grandchild with the log as output goes on."""
    if sys.platform == "win32":
        _tell(os.getpid(), log)
    else:
        child = os.fork()
        if child:
            _tell(child, log)
            os._exit(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log.fileno(), 1), (log.fileno(), 2)):
        os.dup2(descriptor, target)
    os.close(nothing)


def _tell(pid: int, log: IO[bytes]) -> None:
    about = {"pid": pid, "log": log.name, "offset": log.tell()}
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(about).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
