"""Words to a command that we run, or the reason why not. Pure; `commands` runs what comes out.

Below: `words` splits the line, `flags` tells flags from words, `refusals` has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from servers.docker_policy import refusals, values
from servers.docker_policy.flags import Flag, Flags, Parsed, parse
from servers.docker_policy.subcommands import (
    Command,
    Images,
    Info,
    Inspect,
    Logs,
    Port,
    Ps,
    PsOptions,
    Restart,
    Rm,
    Run,
    Start,
    Stats,
    Stop,
    Top,
    Version,
)
from servers.docker_policy.words import Refused, split

MAX_STOP_SECONDS = 30

# The ways to ask ps, and the two that are passed on: others show what is not the container's.
_PS_OPTIONS: Mapping[tuple[str, ...], PsOptions] = {
    (): "-ef",
    ("-ef",): "-ef",
    ("-e", "-f"): "-ef",
    ("aux",): "aux",
    ("-aux",): "aux",
}

_ALL = Flag(("-a", "--all"), "switch")
_QUIET = Flag(("-q", "--quiet"), "switch")
_FULL = Flag(("--no-trunc",), "switch")
_FORMAT = Flag(("--format",))
_FORMAT_OR_F = Flag(("-f", "--format"))
_TIMEOUT = Flag(("-t", "--time", "--timeout"))

_VERSION = Flags("version", (_FORMAT_OR_F,))
_INFO = Flags("info", (_FORMAT_OR_F,))
_PS = Flags(
    "ps",
    (
        *(_ALL, _QUIET, _FULL, _FORMAT, Flag(("-f", "--filter"))),
        *(Flag(("-n", "--last")), Flag(("-l", "--latest"), "switch")),
    ),
    refusals.OF_PS,
)
_IMAGES = Flags("images", (_ALL, _QUIET, _FULL, _FORMAT), refusals.OF_IMAGES)
_LOGS = Flags(
    "logs", (Flag(("-n", "--tail")), Flag(("-t", "--timestamps"), "switch")), refusals.OF_LOGS
)
_INSPECT = Flags("inspect", (_FORMAT_OR_F, Flag(("--type",))), refusals.OF_INSPECT)
_STATS = Flags("stats", (_ALL, _FULL, _FORMAT, Flag(("--no-stream",), "switch")))
_TOP = Flags("top", stops_at_word=True)
_PORTS = Flags("port")
_START = Flags("start", refused=refusals.OF_START)
_STOP = Flags("stop", (_TIMEOUT,), refusals.OF_ENDING)
_RESTART = Flags("restart", (_TIMEOUT,), refusals.OF_ENDING)
_RM = Flags(
    "rm",
    (Flag(("-f", "--force"), "switch"), Flag(("-v", "--volumes"), "switch")),
    refusals.OF_RM,
)
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
        Flag(("--no-healthcheck",), "switch"),
        _QUIET,
        Flag(("--cap-drop",)),
        Flag(("--security-opt",)),
        Flag(("--pull",)),
        Flag(("--restart",)),
        Flag(("-u", "--user")),
    ),
    refusals.OF_RUN,
    stops_at_word=True,
)
FLAGS: Mapping[str, Flags] = {
    flags.command: flags
    for flags in (
        *(_VERSION, _INFO, _PS, _IMAGES, _LOGS, _INSPECT, _STATS, _TOP, _PORTS),
        *(_RUN, _START, _STOP, _RESTART, _RM),
    )
}
"""What each command takes."""

_FORCED: Mapping[str, tuple[frozenset[str], str]] = {
    "network": (frozenset({"none"}), refusals.NAMESPACE),
    "security-opt": (
        frozenset({"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"}),
        refusals.PRIVILEGE,
    ),
    "pull": (frozenset({"never"}), "images are not pulled on the way: ask the operator"),
    "restart": (frozenset({"no"}), "a container ends when it ends, and with this server"),
    "user": (frozenset({"65534", "65534:65534"}), "containers run as 65534"),
}


def _version(words: Sequence[str]) -> Command:
    parsed = parse(_VERSION, words)
    _no_words("version", parsed)
    return Version(_as_json("version", parsed))


def _info(words: Sequence[str]) -> Command:
    parsed = parse(_INFO, words)
    _no_words("info", parsed)
    return Info(_as_json("info", parsed))


def _ps(words: Sequence[str]) -> Command:
    parsed = parse(_PS, words)
    _no_words("ps", parsed)
    filters = _filters(parsed.all("filter"))
    last = parsed.last("last")
    return Ps(
        all=parsed.on("all"),
        quiet=parsed.on("quiet"),
        full=parsed.on("no-trunc"),
        json=_as_json("ps", parsed),
        name=filters.get("name"),
        status=filters.get("status"),
        last=1 if parsed.on("latest") else None if last is None else _last(last),
    )


def _last(text: str) -> int | None:
    """The CLI's own default says -1, for all."""
    return None if text == "-1" else values.number("ps", "--last", text, 1000)


def _filters(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        key, _, value = text.partition("=")
        if key not in ("name", "status") or not value:
            raise Refused(f"docker ps: --filter {text} is refused: filters are name=, status=")
        found[key] = value
    return found


def _images(words: Sequence[str]) -> Command:
    parsed = parse(_IMAGES, words)
    if len(parsed.words) > 1:
        raise Refused("docker images: takes one name at most")
    name = values.image("images", parsed.words[0]) if parsed.words else None
    return Images(parsed.on("quiet"), parsed.on("no-trunc"), _as_json("images", parsed), name)


def _logs(words: Sequence[str]) -> Command:
    parsed = parse(_LOGS, words)
    (container,) = values.containers("logs", parsed.words, at_most=1)
    tail = parsed.last("tail")
    return Logs(
        container,
        None if tail in (None, "all") else values.number("logs", "--tail", str(tail), 1_000_000),
        parsed.on("timestamps"),
    )


def _inspect(words: Sequence[str]) -> Command:
    parsed = parse(_INSPECT, words)
    _as_json("inspect", parsed)
    if parsed.last("type") not in (None, "container"):
        raise Refused("docker inspect: only containers can be inspected here")
    return Inspect(values.containers("inspect", parsed.words))


def _stats(words: Sequence[str]) -> Command:
    parsed = parse(_STATS, words)
    containers = values.containers("stats", parsed.words) if parsed.words else ()
    json = _as_json("stats", parsed)
    return Stats(containers, parsed.on("all"), parsed.on("no-trunc"), json)


def _top(words: Sequence[str]) -> Command:
    """As the CLI has it, what follows the container are options of ps."""
    parsed = parse(_TOP, words)
    (container,) = values.containers("top", parsed.words[:1], at_most=1)
    options = tuple(parsed.words[1:])
    if options not in _PS_OPTIONS:
        raise Refused(f"docker top: {' '.join(options)} is refused: possible are -ef and aux")
    return Top(container, _PS_OPTIONS[options])


def _port(words: Sequence[str]) -> Command:
    parsed = parse(_PORTS, words)
    (container,) = values.containers("port", parsed.words[:1], at_most=1)
    asked = parsed.words[1:]
    if len(asked) > 1 or not all(map(values.PORT.match, asked)):
        raise Refused(f"docker port: {' '.join(asked)}: give one port, such as 80/tcp, or none")
    return Port(container, asked[0] if asked else None)


def _start(words: Sequence[str]) -> Command:
    return Start(values.containers("start", parse(_START, words).words))


def _stop(words: Sequence[str]) -> Command:
    parsed = parse(_STOP, words)
    return Stop(values.containers("stop", parsed.words), _patience("stop", parsed))


def _restart(words: Sequence[str]) -> Command:
    parsed = parse(_RESTART, words)
    return Restart(values.containers("restart", parsed.words), _patience("restart", parsed))


def _patience(command: str, parsed: Parsed) -> int:
    given = parsed.last("timeout")
    return 10 if given is None else values.number(command, "--time", given, MAX_STOP_SECONDS)


def _rm(words: Sequence[str]) -> Command:
    parsed = parse(_RM, words)
    return Rm(values.containers("rm", parsed.words), parsed.on("force"))


def _run(words: Sequence[str]) -> Command:
    parsed = parse(_RUN, words)
    if not parsed.words:
        raise Refused("docker run: an image is missing, as in `run --rm alpine echo hello`")
    _only_what_is_forced(parsed)
    image, *arguments = parsed.words
    memory, cpus, processes = map(parsed.last, ("memory", "cpus", "pids-limit"))
    return Run(
        image=values.image("run", image),
        arguments=tuple(arguments),
        detach=parsed.on("detach"),
        remove=parsed.on("rm"),
        name=values.name(parsed.last("name")),
        environment=tuple(map(values.variable, parsed.all("env"))),
        workdir=values.workdir(parsed.last("workdir")),
        entrypoint=parsed.last("entrypoint"),
        memory=None if memory is None else values.size(memory),
        cpus=None if cpus is None else values.decimal(cpus),
        processes=None
        if processes is None
        else values.number("run", "--pids-limit", processes, 1 << 16),
    )


def _only_what_is_forced(parsed: Parsed) -> None:
    for flag, (in_force, why) in _FORCED.items():
        for value in parsed.all(flag):
            if value not in in_force:
                raise Refused(f"docker run: --{flag} {value} is refused: {why}")
    for switch in ("read-only", "init", "no-healthcheck"):
        if switch in parsed.values and not parsed.on(switch):
            raise Refused(f"docker run: --{switch}=false is refused: it is always on")


def _as_json(command: str, parsed: Parsed) -> bool:
    form = parsed.last("format")
    if form not in (None, "json", "{{json .}}", "table"):
        raise Refused(f"docker {command}: --format {form} is refused: {refusals.TEMPLATES}")
    return form in ("json", "{{json .}}")


def _no_words(command: str, parsed: Parsed) -> None:
    if parsed.words:
        raise Refused(f"docker {command}: takes no arguments here, found {parsed.words[0]!r}")


_COMMANDS: Mapping[str, Callable[[Sequence[str]], Command]] = {
    "version": _version,
    "info": _info,
    "ps": _ps,
    "images": _images,
    "logs": _logs,
    "inspect": _inspect,
    "stats": _stats,
    "top": _top,
    "port": _port,
    "run": _run,
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "rm": _rm,
}

# `docker container ls` and the like are the same commands under their long names.
_OF_CONTAINERS = (
    "logs",
    "inspect",
    "stats",
    "top",
    "port",
    "run",
    "start",
    "stop",
    "restart",
    "rm",
)
_LONG_NAMES: Mapping[str, Mapping[str, str]] = {
    "container": {
        **{name: name for name in _OF_CONTAINERS},
        **dict.fromkeys(("ls", "ps", "list"), "ps"),
        "remove": "rm",
    },
    "image": dict.fromkeys(("ls", "list"), "images"),
    "system": {"info": "info"},
}
_ITS_VERSION = frozenset({"-v", "--version"})


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
    if name in _ITS_VERSION and not rest:
        return Version()
    if name.startswith("-"):
        raise Refused(
            f"{name} before the command is refused: the engine is the one that the operator"
            f" chose; possible are: {possible()}"
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
    raise Refused(f"docker {name} is refused: {_reason(name)}; possible are: {possible()}")


def _reason(name: str) -> str:
    """Of the whole name, of what `docker container` does under a short name, or of its group."""
    group, _, verb = name.partition(" ")
    asked = (name, verb if group == "container" else "", group)
    found = (refusals.COMMANDS[word] for word in asked if word in refusals.COMMANDS)
    return next(found, "it is not known here")
