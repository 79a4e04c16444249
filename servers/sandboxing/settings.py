"""What the operator decides, in variables that begin with SANDBOX_."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from servers.sandboxing.outcome import MIB, Limits
from servers.sandboxing.sessions import SessionRules
from servers.serving import setting

BackendName = Literal["auto", "bubblewrap", "docker"]
BACKENDS: tuple[BackendName, ...] = ("auto", "bubblewrap", "docker")

USUAL_IMAGES = ("mcpcp-sandbox:latest", "python:3.13-slim")
"""The one that `image` makes here, and the one that `pull` gets unless another one is named."""

_IMPORTS = "numpy,numpy.random"


class BadSetting(ValueError):
    """A variable is not what it can be; the message says which, and what it can be."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decides.

    `backend` is one of BACKENDS; `python` the interpreter for bubblewrap, None for the best that is
    there; `images` those for Docker, of which the first that is there is used, and `runtime` how
    the engine runs it, "auto" for the strongest it has; `at_once` how many sandboxes run side by
    side, `warm` how many wait ready; `imports` what they import in advance; `patience` how many
    seconds a call waits for a place.
    `packages` is the folder of package folders; `sessions` holds the sessions, and is ours alone;
    `data` is what all servers share, the pin of the image among it.
    """

    backend: BackendName = "auto"
    python: str | None = None
    images: tuple[str, ...] = USUAL_IMAGES
    runtime: str = "auto"
    limits: Limits = field(default_factory=Limits)
    at_once: int = 4
    warm: int = 4
    imports: tuple[str, ...] = tuple(_IMPORTS.split(","))
    patience: float = 20.0
    packages: Path | None = None
    data: Path = Path("data/sandbox")
    sessions: Path = Path("data/sandbox/sessions")
    session_rules: SessionRules = field(default_factory=SessionRules)


LIMITS: dict[str, tuple[str, float]] = {
    "SANDBOX_TIMEOUT": ("timeout", 1),
    "SANDBOX_LONGEST_TIMEOUT": ("longest", 1),
    "SANDBOX_CPU_TIME": ("cpu_time", 1),
    "SANDBOX_CPUS": ("cpus", 1),
    "SANDBOX_MEMORY_MB": ("memory", MIB),
    "SANDBOX_DISK_MB": ("disk", MIB),
    "SANDBOX_SCRATCH_MB": ("scratch", MIB),
    "SANDBOX_INODES": ("inodes", 1),
    "SANDBOX_PROCESSES": ("processes", 1),
    "SANDBOX_OPEN_FILES": ("open_files", 1),
    "SANDBOX_OUTPUT_BYTES": ("output", 1),
    "SANDBOX_FLOOD_MB": ("flood", MIB),
    "SANDBOX_FILE_COUNT": ("file_count", 1),
    "SANDBOX_FILE_MB": ("file_size", MIB),
    "SANDBOX_FILE_DEPTH": ("file_depth", 1),
}
"""The field of Limits that a variable sets, and its unit in the field's."""

SESSIONS: dict[str, tuple[str, float]] = {
    "SANDBOX_SESSIONS_PER_AGENT": ("per_agent", 1),
    "SANDBOX_SESSIONS": ("total", 1),
    "SANDBOX_SESSION_IDLE": ("idle", 1),
}
"""The same for SessionRules."""


def settings(name: str) -> Settings:
    """What the environment says for the server of that name; raises BadSetting."""
    usual = Settings()
    backend = setting("SANDBOX_BACKEND", usual.backend)
    if backend not in BACKENDS:
        raise BadSetting(f"SANDBOX_BACKEND is {' or '.join(BACKENDS)}, not {backend!r}")
    limits = _with_numbers(usual.limits, LIMITS)
    rules = _with_numbers(usual.session_rules, SESSIONS)
    data = data_folder()
    return Settings(
        backend=backend,
        python=setting("SANDBOX_PYTHON", "") or None,
        images=tuple(setting("SANDBOX_IMAGE", ",".join(usual.images)).split(",")),
        runtime=setting("SANDBOX_RUNTIME", usual.runtime),
        limits=limits,
        at_once=int(number("SANDBOX_AT_ONCE", usual.at_once)),
        warm=int(number("SANDBOX_WARM", usual.warm, least=0)),
        imports=tuple(filter(None, setting("SANDBOX_IMPORTS", _IMPORTS).split(","))),
        data=data,
        sessions=data / name / "sessions",
        session_rules=replace(
            rules, disk=limits.disk, file_size=limits.file_size, file_depth=limits.file_depth
        ),
    )


def data_folder() -> Path:
    """Where sessions and packages are kept: in the fleet's data, where one started us."""
    usual = Path(setting("MCPCP_DATA_DIR", "data"), "sandbox")
    return Path(setting("SANDBOX_DATA", str(usual))).absolute()


Rules = TypeVar("Rules", Limits, SessionRules)


def _with_numbers(usual: Rules, table: dict[str, tuple[str, float]]) -> Rules:
    """As the environment has it, where that says anything."""
    changes: dict[str, Any] = {}
    for variable, (name, unit) in table.items():
        if setting(variable, ""):
            kind = type(getattr(usual, name))
            changes[name] = kind(number(variable, 0) * unit)
    return replace(usual, **changes)


def number(variable: str, usual: float, least: float = 0.001) -> float:
    """A variable's number, `least` at least; raises BadSetting."""
    text = setting(variable, str(usual))
    try:
        found = float(text)
    except ValueError:
        raise BadSetting(f"{variable} is a number, not {text!r}") from None
    if not least <= found < float("inf"):
        raise BadSetting(f"{variable} is at least {least:g}, not {text!r}")
    return found
