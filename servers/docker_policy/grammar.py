"""Words to a command that we run, or the reason why not. Pure; `commands` runs what comes out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from servers.docker_policy.flags import Flag, Flags, Parsed, parse
from servers.docker_policy.words import Refused, split

CONTAINER = re.compile(r"\A[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z", re.ASCII)
IMAGE = re.compile(
    r"\A[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?\Z",
    re.ASCII,
)
_VARIABLE = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_SIZE = re.compile(r"\A(\d{1,12})([bkmg]?)\Z", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Version:
    """`docker version`."""

    json: bool = False


@dataclass(frozen=True, slots=True)
class Info:
    """`docker info`."""

    json: bool = False


@dataclass(frozen=True, slots=True)
class Ps:
    """`docker ps`: this agent's containers."""

    all: bool = False
    quiet: bool = False
    full: bool = False
    json: bool = False
    name: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Images:
    """`docker images`: the ones that may be run."""

    quiet: bool = False
    full: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True)
class Logs:
    """`docker logs`; `tail` None means all that is kept."""

    container: str
    tail: int | None = None
    timestamps: bool = False


@dataclass(frozen=True, slots=True)
class Inspect:
    """`docker inspect`: containers of this agent."""

    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """`docker stop`; `seconds` to end by themselves."""

    containers: tuple[str, ...]
    seconds: int = 10


@dataclass(frozen=True, slots=True)
class Rm:
    """`docker rm`."""

    containers: tuple[str, ...]
    force: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """`docker run`; None leaves a limit as the hardening sets it, a value may only lower it."""

    image: str
    arguments: tuple[str, ...] = ()
    detach: bool = False
    remove: bool = False
    name: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    entrypoint: str | None = None
    memory: int | None = None
    cpus: float | None = None
    processes: int | None = None


Command = Version | Info | Ps | Images | Logs | Inspect | Stop | Rm | Run

MAX_STOP_SECONDS = 30

_JSON = Flag(("--format", "-f"))
_TEMPLATES = "Go templates are not evaluated here; leave it out, or use --format json"
_SIZES = "it makes the engine walk every file"

_HOST_FILES = "files of the host are not for containers; they get an own /tmp, in memory"
_PRIVILEGE = "containers run without capabilities and can't be given any"
_NAMESPACE = "containers have namespaces of their own, and no network"
_TERMINAL = "there is no terminal and no input here: leave it out"
_LABELS = "labels say whose a container is"
_OTHER_ENGINE = "the engine is the one that the operator chose"

_RUN_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("-v", "--volume", "--mount", "--volumes-from", "--volume-driver", "--tmpfs"), _HOST_FILES
    ),
    **dict.fromkeys(("--env-file", "--label-file", "--cidfile"), _HOST_FILES),
    **dict.fromkeys(
        ("--privileged", "--cap-add", "--device", "--device-cgroup-rule", "--gpus", "--group-add"),
        _PRIVILEGE,
    ),
    **dict.fromkeys(
        ("--device-read-bps", "--device-write-bps", "--userns", "-u", "--user"), _PRIVILEGE
    ),
    **dict.fromkeys(("--pid", "--ipc", "--uts", "--cgroupns", "--cgroup-parent"), _NAMESPACE),
    **dict.fromkeys(
        ("-p", "--publish", "-P", "--publish-all", "--expose", "--link", "--add-host", "--dns"),
        _NAMESPACE,
    ),
    **dict.fromkeys(
        ("--network-alias", "--ip", "--ip6", "--mac-address", "--hostname", "-h"), _NAMESPACE
    ),
    **dict.fromkeys(("-i", "--interactive", "-t", "--tty", "-a", "--attach"), _TERMINAL),
    **dict.fromkeys(("-l", "--label"), _LABELS),
    **dict.fromkeys(("--runtime", "--isolation", "--platform"), _OTHER_ENGINE),
    "--pull": "images are not pulled on the way: ask the operator to pull it",
    "--restart": "a container ends when it ends, and with this server at the latest",
    "--sysctl": "kernel settings stay as they are",
    "--ulimit": "limits are set by the operator",
    "--shm-size": "limits are set by the operator",
    "--memory-swap": "a container has no swap",
    "--oom-kill-disable": "a container that needs too much memory has to end",
    "--log-driver": "logs are kept, bounded, where docker logs finds them",
    "--log-opt": "logs are kept, bounded, where docker logs finds them",
    "--storage-opt": "the container's file system is read-only",
}

_RUN = Flags(
    "run",
    (
        Flag(("-d", "--detach"), "switch"),
        Flag(("--rm",), "switch"),
        Flag(("--name",)),
        Flag(("-e", "--env")),
        Flag(("-w", "--workdir")),
        Flag(("--entrypoint",)),
        Flag(("-m", "--memory")),
        Flag(("--cpus",)),
        Flag(("--pids-limit",)),
        # in force anyway: asking for them is no mistake, asking for something else is
        Flag(("--network", "--net")),
        Flag(("--read-only",), "switch"),
        Flag(("--init",), "switch"),
        Flag(("--cap-drop",)),
        Flag(("--security-opt",)),
    ),
    _RUN_REFUSED,
    stops_at_word=True,
)


def _version(words: Sequence[str]) -> Command:
    parsed = parse(Flags("version", (_JSON,)), words)
    _no_words("version", parsed)
    return Version(_as_json("version", parsed))


def _info(words: Sequence[str]) -> Command:
    parsed = parse(Flags("info", (_JSON,)), words)
    _no_words("info", parsed)
    return Info(_as_json("info", parsed))


def _ps(words: Sequence[str]) -> Command:
    flags = Flags(
        "ps",
        (
            Flag(("-a", "--all"), "switch"),
            Flag(("-q", "--quiet"), "switch"),
            Flag(("--no-trunc",), "switch"),
            Flag(("-f", "--filter")),
            Flag(("--format",)),
        ),
        {"-s": _SIZES, "--size": _SIZES},
    )
    parsed = parse(flags, words)
    _no_words("ps", parsed)
    filters = _filters(parsed.all("filter"))
    return Ps(
        all=parsed.on("all"),
        quiet=parsed.on("quiet"),
        full=parsed.on("no-trunc"),
        json=_as_json("ps", parsed),
        name=filters.get("name"),
        status=filters.get("status"),
    )


def _filters(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        key, _, value = text.partition("=")
        if key not in ("name", "status") or not value:
            raise Refused(f"docker ps: --filter {text} is refused: filters are name=, status=")
        found[key] = value
    return found


def _images(words: Sequence[str]) -> Command:
    flags = Flags(
        "images",
        (
            Flag(("-q", "--quiet"), "switch"),
            Flag(("--no-trunc",), "switch"),
            Flag(("-a", "--all"), "switch"),
            Flag(("--format",)),
        ),
    )
    parsed = parse(flags, words)
    _no_words("images", parsed)
    return Images(parsed.on("quiet"), parsed.on("no-trunc"), _as_json("images", parsed))


def _logs(words: Sequence[str]) -> Command:
    follow = "a tool call answers once: ask again for what came since"
    flags = Flags(
        "logs",
        (Flag(("-n", "--tail")), Flag(("-t", "--timestamps"), "switch")),
        {"-f": follow, "--follow": follow},
    )
    parsed = parse(flags, words)
    (container,) = _containers("logs", parsed, at_most=1)
    tail = parsed.last("tail")
    return Logs(
        container,
        None if tail in (None, "all") else _number("logs", "--tail", str(tail), 1_000_000),
        parsed.on("timestamps"),
    )


def _inspect(words: Sequence[str]) -> Command:
    flags = Flags("inspect", (Flag(("--format", "-f")), Flag(("--type",))), {"-s": _SIZES})
    parsed = parse(flags, words)
    _as_json("inspect", parsed)
    if parsed.last("type") not in (None, "container"):
        raise Refused("docker inspect: only containers can be inspected here")
    return Inspect(_containers("inspect", parsed))


def _stop(words: Sequence[str]) -> Command:
    flags = Flags("stop", (Flag(("-t", "--time", "--timeout")),), {"--signal": "TERM, then KILL"})
    parsed = parse(flags, words)
    seconds = parsed.last("timeout")
    limit = 10 if seconds is None else _number("stop", "--time", seconds, MAX_STOP_SECONDS)
    return Stop(_containers("stop", parsed), limit)


def _rm(words: Sequence[str]) -> Command:
    switches = (Flag(("-f", "--force"), "switch"), Flag(("-v", "--volumes"), "switch"))
    link = "containers have no links"
    parsed = parse(Flags("rm", switches, {"-l": link, "--link": link}), words)
    return Rm(_containers("rm", parsed), parsed.on("force"))


def _run(words: Sequence[str]) -> Command:
    parsed = parse(_RUN, words)
    if not parsed.words:
        raise Refused("docker run: an image is missing, as in `run --rm alpine echo hello`")
    _only_what_is_forced(parsed)
    image, *arguments = parsed.words
    memory, cpus, processes = map(parsed.last, ("memory", "cpus", "pids-limit"))
    return Run(
        image=_image(image),
        arguments=tuple(arguments),
        detach=parsed.on("detach"),
        remove=parsed.on("rm"),
        name=_name(parsed.last("name")),
        environment=tuple(map(_variable, parsed.all("env"))),
        workdir=_workdir(parsed.last("workdir")),
        entrypoint=parsed.last("entrypoint"),
        memory=None if memory is None else _size(memory),
        cpus=None if cpus is None else _decimal(cpus),
        processes=None if processes is None else _number("run", "--pids-limit", processes, 1 << 16),
    )


def _only_what_is_forced(parsed: Parsed) -> None:
    for value in parsed.all("network"):
        if value != "none":
            raise Refused(f"docker run: --network {value} is refused: {_NAMESPACE}")
    for value in parsed.all("security-opt"):
        if value not in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"):
            raise Refused(f"docker run: --security-opt {value} is refused: {_PRIVILEGE}")
    for switch in ("read-only", "init"):
        if switch in parsed.values and not parsed.on(switch):
            raise Refused(f"docker run: --{switch}=false is refused: it is always on")


def _image(text: str) -> str:
    if not IMAGE.match(text):
        raise Refused(f"docker run: {text!r} is not the name of an image")
    return text


def _name(text: str | None) -> str | None:
    if text is not None and not CONTAINER.match(text):
        raise Refused(f"docker run: --name {text!r}: use letters, digits, _ . - only")
    return text


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Refused(f"docker run: -e {text}: give NAME=VALUE; the server's own is not passed on")
    if not _VARIABLE.match(name):
        raise Refused(f"docker run: -e {name}: not the name of a variable")
    return name, value


def _workdir(text: str | None) -> str | None:
    if text is not None and not text.startswith("/"):
        raise Refused(f"docker run: --workdir {text}: give an absolute path")
    return text


def _size(text: str) -> int:
    match = _SIZE.match(text)
    if not match:
        raise Refused(f"docker run: --memory {text}: give a size such as 256m")
    return int(match[1]) * _UNITS[match[2].lower()]


def _decimal(text: str) -> float:
    if not re.match(r"\A\d{1,4}(\.\d{1,4})?\Z", text, re.ASCII) or float(text) <= 0:
        raise Refused(f"docker run: --cpus {text}: give a number such as 0.5")
    return float(text)


def _number(command: str, flag: str, text: str, highest: int) -> int:
    if not re.match(r"\A\d{1,9}\Z", text, re.ASCII) or int(text) > highest:
        raise Refused(f"docker {command}: {flag} {text}: give a number from 0 to {highest}")
    return int(text)


def _as_json(command: str, parsed: Parsed) -> bool:
    form = parsed.last("format")
    if form not in (None, "json", "{{json .}}", "table"):
        raise Refused(f"docker {command}: --format {form} is refused: {_TEMPLATES}")
    return form in ("json", "{{json .}}")


def _no_words(command: str, parsed: Parsed) -> None:
    if parsed.words:
        raise Refused(f"docker {command}: takes no arguments here, found {parsed.words[0]!r}")


def _containers(command: str, parsed: Parsed, at_most: int = 20) -> tuple[str, ...]:
    if not parsed.words:
        raise Refused(f"docker {command}: which container? Give its name or id")
    if len(parsed.words) > at_most:
        raise Refused(f"docker {command}: takes at most {at_most} of them at once")
    for word in parsed.words:
        if not CONTAINER.match(word):
            raise Refused(f"docker {command}: {word!r} is not the name or id of a container")
    return tuple(parsed.words)


_COMMANDS: dict[str, Callable[[Sequence[str]], Command]] = {
    "version": _version,
    "info": _info,
    "ps": _ps,
    "images": _images,
    "logs": _logs,
    "inspect": _inspect,
    "stop": _stop,
    "rm": _rm,
    "run": _run,
}

# `docker container ls` and the like are the same commands under their long names.
_LONG_NAMES: dict[str, dict[str, str]] = {
    "container": {
        **{name: name for name in ("run", "logs", "inspect", "stop", "rm")},
        **dict.fromkeys(("ls", "ps", "list"), "ps"),
        "remove": "rm",
    },
    "image": dict.fromkeys(("ls", "list"), "images"),
    "system": {"info": "info"},
}

_REASONS: Mapping[str, str] = {
    **dict.fromkeys(
        ("exec", "attach", "cp", "export", "commit", "diff", "update", "rename"),
        "containers are not changed or entered once they run",
    ),
    **dict.fromkeys(
        (
            "pull",
            "push",
            "build",
            "buildx",
            "load",
            "import",
            "save",
            "tag",
            "rmi",
            "login",
            "logout",
        ),
        "images are the operator's",
    ),
    **dict.fromkeys(("search", "manifest", "trust", "scout"), "images are the operator's"),
    **dict.fromkeys(
        ("network", "volume", "plugin", "swarm", "node", "service", "stack", "secret", "config"),
        "the engine itself is the operator's",
    ),
    **dict.fromkeys(("context", "events", "checkpoint"), "the engine itself is the operator's"),
}


def possible() -> str:
    """The commands there are, for messages."""
    return ", ".join(_COMMANDS)


def understand(line: str) -> Command:
    """The command in a line, with or without the word docker; raises Refused."""
    words = split(line)
    if words and words[0] == "docker":
        words = words[1:]
    if not words:
        raise Refused(f"no command was given; possible are: {possible()}")
    name, rest = words[0], words[1:]
    if name.startswith("-"):
        raise Refused(
            f"{name} before the command is refused: {_OTHER_ENGINE}; possible are: {possible()}"
        )
    if name in _LONG_NAMES:
        name, rest = _short_name(name, rest)
    if name not in _COMMANDS:
        _refuse(name)
    return _COMMANDS[name](rest)


def _short_name(group: str, rest: Sequence[str]) -> tuple[str, list[str]]:
    verb = rest[0] if rest else ""
    if verb not in _LONG_NAMES[group]:
        _refuse(f"{group} {verb}".strip())
    return _LONG_NAMES[group][verb], list(rest[1:])


def _refuse(name: str) -> NoReturn:
    reasons = [_REASONS[word] for word in reversed(name.split()) if word in _REASONS]
    why = reasons[0] if reasons else "it is not known here"
    raise Refused(f"docker {name} is refused: {why}; possible are: {possible()}")
