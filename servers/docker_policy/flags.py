"""Flags as the docker CLI spells them: --name value, --name=value, -n value, -nvalue, -abc.

Pure. What a command does not list is refused, with the reason where there is one to give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from servers.docker_policy.words import Refused

Kind = Literal["switch", "text"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its names with their dashes, and whether a value follows."""

    names: tuple[str, ...]
    kind: Kind = "text"

    @property
    def name(self) -> str:
        """The name it is known by: the long one, without dashes."""
        return max(self.names, key=len).lstrip("-")


_UNKNOWN = {"--help": "what there is stands here"}


@dataclass(frozen=True, slots=True)
class Flags:
    """What a command accepts; `refused` maps other known names to the reason why not.

    `stops_at_word`: what follows the first plain word is not ours to parse, as in `run IMAGE ...`.
    """

    command: str
    accepted: tuple[Flag, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    stops_at_word: bool = False

    def find(self, name: str) -> Flag:
        """The flag with that name; raises Refused with the reason and the alternatives."""
        for flag in self.accepted:
            if name in flag.names:
                return flag
        known = ", ".join(sorted(max(flag.names, key=len) for flag in self.accepted)) or "none"
        why = self.refused.get(name) or _UNKNOWN.get(name, "it is not one that this tool knows")
        raise Refused(f"docker {self.command}: {name} is refused: {why}. Flags here: {known}")


@dataclass(slots=True)
class Parsed:
    """The values of the flags that were given, in order, and the plain words."""

    values: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def on(self, name: str) -> bool:
        """Whether a switch is on; the last mention counts."""
        return self.values.get(name, ["false"])[-1] == "true"

    def last(self, name: str) -> str | None:
        """The value of a flag that makes sense once."""
        return self.values.get(name, [None])[-1] if name in self.values else None

    def all(self, name: str) -> list[str]:
        """The values of a flag that may be repeated."""
        return self.values.get(name, [])


_TRUE = {"true", "1", "t", "T", "TRUE", "True"}
_FALSE = {"false", "0", "f", "F", "FALSE", "False"}


def parse(flags: Flags, words: Sequence[str]) -> Parsed:
    """Tell flags from words; raises Refused for a flag that the command does not accept."""
    parsed, rest = Parsed(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            parsed.words += rest
            break
        if not word.startswith("-") or word == "-":
            parsed.words.append(word)
            if flags.stops_at_word:
                parsed.words += rest
                break
        elif word.startswith("--"):
            _long(flags, word, rest, parsed)
        else:
            _short(flags, word, rest, parsed)
    return parsed


def _long(flags: Flags, word: str, rest: list[str], parsed: Parsed) -> None:
    name, equals, value = word.partition("=")
    flag = flags.find(name)
    if flag.kind == "switch":
        _keep(parsed, flag, _switch(flags, name, value) if equals else "true")
    else:
        _keep(parsed, flag, value if equals else _next(flags, name, rest))


def _short(flags: Flags, word: str, rest: list[str], parsed: Parsed) -> None:
    """A cluster: switches, and at its end perhaps a flag whose value is the rest of the word."""
    letters = word[1:]
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        flag = flags.find(name)
        if flag.kind == "switch":
            value, letters = _cluster_switch(flags, name, letters)
            _keep(parsed, flag, value)
            continue
        attached = letters.removeprefix("=")
        _keep(parsed, flag, attached if letters else _next(flags, name, rest))
        return


def _cluster_switch(flags: Flags, name: str, letters: str) -> tuple[str, str]:
    """pflag: -d=false sets it, -da goes on with a."""
    if letters.startswith("="):
        return _switch(flags, name, letters[1:]), ""
    return "true", letters


def _switch(flags: Flags, name: str, value: str) -> str:
    if value in _TRUE:
        return "true"
    if value in _FALSE:
        return "false"
    raise Refused(f"docker {flags.command}: {name} is true or false, not {value!r}")


def _next(flags: Flags, name: str, rest: list[str]) -> str:
    if not rest:
        raise Refused(f"docker {flags.command}: {name} needs a value")
    return rest.pop(0)


def _keep(parsed: Parsed, flag: Flag, value: str) -> None:
    parsed.values.setdefault(flag.name, []).append(value)
