"""The checkout's own environment, `.venv`: made, filled and repaired by the standard library alone.

Above: `launch_servers.py`, `client.py` and `python -m tests`, where there may be only Python.
An interrupted install leaves a marker behind, and the next start builds the environment afresh: pip
takes a half-written package for an installed one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcpcp.errors import FleetError
from mcpcp.pipoutput import Progress, explain

if sys.platform != "win32":
    import fcntl

PROJECT = Path(__file__).resolve().parent.parent
STAMP = "mcpcp-installed.json"
UNFINISHED = "mcpcp-installing"
PATIENCE = 300.0
"""Seconds for an answer of a Python: what gives none is built again, so slowness must not do."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Environment:
    """A checkout and the virtual environment inside it."""

    project: Path = PROJECT

    @property
    def folder(self) -> Path:
        return self.project / ".venv"

    @property
    def python(self) -> Path:
        """Its interpreter, not resolved: the link's place makes it this environment's."""
        if sys.platform == "win32":
            return self.folder / "Scripts" / "python.exe"
        return self.folder / "bin" / "python"

    @property
    def is_ours(self) -> bool:
        """Whether the running interpreter is this environment's."""
        return Path(sys.prefix).resolve() == self.folder.resolve()


def ensure(environment: Environment, extras: str = "") -> Path:
    """The environment's interpreter, with the project and `extras` as setup.cfg says now."""
    if _is_current(environment, extras):
        return environment.python
    with _terminated_as_interrupt(), _locked(environment.project) as lock:
        if not _is_current(environment, extras):
            _build(environment, extras, lock)
    return environment.python


def enter(argv: list[str], extras: str = "", environment: Environment | None = None) -> None:
    """Go on as `argv` in the environment, in the same process; return if it runs there already."""
    environment = environment or Environment()
    python = ensure(environment, extras)
    if environment.is_ours:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform == "win32":  # exec there ends the process that the shell waits for
        sys.exit(subprocess.call([str(python), *argv]))
    os.execv(python, [str(python), *argv])  # noqa: S606  no shell is meant


def _wanted(environment: Environment, extras: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    for name in ("setup.cfg", "pyproject.toml"):
        digest.update((environment.project / name).read_bytes())
    return {
        "project": str(environment.project),
        "requirements": digest.hexdigest(),
        "extras": sorted(filter(None, extras.split(","))),
    }


def _stamp(environment: Environment) -> dict[str, Any]:
    try:
        stamp = json.loads((environment.folder / STAMP).read_bytes())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _is_current(environment: Environment, extras: str) -> bool:
    stamp, wanted = _stamp(environment), _wanted(environment, extras)
    return (
        environment.python.exists()
        and not (environment.folder / UNFINISHED).exists()
        and all(stamp.get(key) == wanted[key] for key in ("project", "requirements"))
        and set(wanted["extras"]) <= set(stamp.get("extras", ()))
        and (stamp.get("python") == _version() or stamp.get("python") == _version_of(environment))
    )


def _version() -> str:
    return ".".join(map(str, sys.version_info[:2]))


def _version_of(environment: Environment) -> str | None:
    """The environment's Python as it answers today: its base may have been replaced since."""
    program = "import sys; print('%d.%d' % sys.version_info[:2], sys.prefix != sys.base_prefix)"
    try:
        answer = subprocess.run(
            [str(environment.python), "-I", "-c", program],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        ).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return answer[0] if answer[1:] == ["True"] else None


def _build(environment: Environment, extras: str, lock: int | None) -> None:
    stamp = _stamp(environment)
    all_extras = ",".join(sorted({*stamp.get("extras", ()), *filter(None, extras.split(","))}))
    with _disk_errors(environment):
        pip = _make(environment)
        (environment.folder / STAMP).unlink(missing_ok=True)
        (environment.folder / UNFINISHED).touch()
        try:
            _install(environment, pip, all_extras, lock)
        except FleetError:
            # pip failed in its own good order and rolled back: nothing is half-written.
            (environment.folder / UNFINISHED).unlink()
            raise
        done = {**_wanted(environment, all_extras), "python": _version_of(environment)}
        fresh = environment.folder / (STAMP + ".new")
        fresh.write_text(json.dumps(done))
        fresh.replace(environment.folder / STAMP)
        (environment.folder / UNFINISHED).unlink()


def _make(environment: Environment) -> list[str]:
    """Make the environment where it is missing or broken; the command that is pip for it."""
    version, unfinished = _version_of(environment), (environment.folder / UNFINISHED).exists()
    same_python = _stamp(environment).get("python", version) == version
    if version is None or unfinished or not same_python:
        if environment.folder.exists():
            say("The environment in .venv is not complete: building it again.")
        else:
            say("First start: making the environment in .venv (once; a minute or less).")
        _make_afresh(environment)
    if _runs([str(environment.python), "-m", "pip", "--version"]):
        return [str(environment.python), "-m", "pip"]
    if _runs([_base_python(), "-m", "pip", "--python", str(environment.python), "--version"]):
        return [_base_python(), "-m", "pip", "--python", str(environment.python)]
    raise FleetError(_no_venv())


def _base_python() -> str:
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _make_afresh(environment: Environment) -> None:
    # Where the distribution leaves ensurepip out, the base Python's pip can still fill the folder.
    if importlib.util.find_spec("venv") is None:
        raise FleetError(_no_venv())
    bare = [] if importlib.util.find_spec("ensurepip") else ["--without-pip"]
    command = [_base_python(), "-m", "venv", "--clear", *bare, str(environment.folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        output = result.stdout + result.stderr
        if "ensurepip" in output and not _is_disk_full(output):
            raise FleetError(_no_venv())
        raise FleetError(explain(output, "making the environment in .venv"))


def _is_disk_full(text: str) -> bool:
    return os.strerror(errno.ENOSPC) in text


def _no_venv() -> str:
    version = _version()
    ways = [f"python{version} -m ensurepip --upgrade"]
    for tool, install in (
        ("apt-get", f"sudo apt install python{version}-venv"),
        ("dnf", "sudo dnf install python3-pip"),
        ("zypper", "sudo zypper install python3-pip"),
        ("apk", "sudo apk add py3-pip"),
    ):
        if shutil.which(tool):
            ways.insert(0, install)
    return (
        f"this Python {version} can't make a virtual environment (its venv or pip is missing). "
        f"Install them and start again:\n    " + "\n    or: ".join(ways)
    )


def _runs(command: list[str]) -> bool:
    try:
        return (
            subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode
            == 0
        )
    except (OSError, subprocess.SubprocessError):
        return False


def _install(environment: Environment, pip: list[str], extras: str, lock: int | None) -> None:
    target = str(environment.project) + (f"[{extras}]" if extras else "")
    command = [*pip, "install", "--no-input", "--progress-bar", "off", "-e", target]
    with Progress("Installing mcpcp") as progress:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            start_new_session=True,  # a group to stop; Ctrl+C reaches it through us
            # pip holds the lock as long as it runs, even if this process is killed.
            pass_fds=() if lock is None else (lock,),
        )
        try:
            assert process.stdout is not None  # noqa: S101  Popen made the pipe
            for line in process.stdout:
                progress.feed(line.rstrip())
            code = process.wait()
        finally:
            _end(process)
        if code:
            raise FleetError(explain(progress.tail, "installing mcpcp into .venv"))


def _end(process: subprocess.Popen[str]) -> None:
    """Stop pip, where it still runs, and the builds that it started."""
    if process.poll() is None:
        _signal(process, signal.SIGINT)  # pip rolls back on it
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if sys.platform != "win32":
            _signal(process, signal.SIGKILL)
    if process.stdout:
        process.stdout.close()


def _signal(process: subprocess.Popen[str], number: int) -> None:
    if sys.platform == "win32":
        process.terminate()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


@contextlib.contextmanager
def _disk_errors(environment: Environment) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENOSPC:
            reason = explain(reason, "making .venv")
        raise FleetError(f"{environment.folder} can't be written: {reason}") from error


@contextlib.contextmanager
def _locked(project: Path) -> Iterator[int | None]:
    """One builder at a time; the lock is on the checkout's folder, so no file is left over."""
    if sys.platform == "win32":
        yield None
    else:
        folder = os.open(project, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another start is building the environment: waiting for it (Ctrl+C gives up).")
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(folder)


@contextlib.contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind as Ctrl+C does, so that pip ends with us."""

    def interrupt(signum: int, _frame: object) -> None:
        raise KeyboardInterrupt(signum)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def say(line: str) -> None:
    """Tell the person at the keyboard; stdout stays free for what the program prints."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
