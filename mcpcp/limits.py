"""Limits that a token holds beside names: read from claim and config, and enforced.

Above: `tokens` and `config` read and write them, the gateway asks a Limiter before each call.
Below: `policy` has the value, `constraints` the schemas of arguments.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from mcpcp import constraints
from mcpcp.errors import Limited
from mcpcp.policy import NONE, Agent, Identity, Limits

MOST_CALLS = 1_000_000
"""Calls a minute, or in flight, that a limit can be set to."""

MOST_RULES = 64
"""Constraints on arguments that one token can hold."""

WINDOW = 60.0
"""Seconds that `calls_per_minute` looks back."""

_GRAIN = 1.0
_WINDOWS = 4096
_FREE: Final[AbstractContextManager[None]] = contextlib.nullcontext()

KEYS = ("calls_per_minute", "in_flight", "arguments")


def of(values: Mapping[str, Any]) -> Limits:
    """From the mapping that claim and config have, whose values are known to be good."""
    rules = values.get("arguments") or {}
    made = Limits(
        calls_per_minute=values.get("calls_per_minute"),
        in_flight=values.get("in_flight"),
        arguments=tuple(sorted((p, constraints.canonical(s)) for p, s in rules.items())),
    )
    return NONE if made == NONE else made


def to_claim(limits: Limits) -> dict[str, Any]:
    """The reverse of `of`: only what is limited is there."""
    claim: dict[str, Any] = {}
    if limits.calls_per_minute is not None:
        claim["calls_per_minute"] = limits.calls_per_minute
    if limits.in_flight is not None:
        claim["in_flight"] = limits.in_flight
    if limits.arguments:
        claim["arguments"] = {pattern: json.loads(text) for pattern, text in limits.arguments}
    return claim


def parse(claim: object) -> Limits:
    """The limits of a claim; ValueError says what is wrong, an unknown limit too."""
    if not isinstance(claim, dict):
        raise ValueError("limits must be an object")  # noqa: TRY004 - a value from outside
    for name, value in claim.items():
        problem = _fault(name, value)
        if problem:
            raise ValueError(f"{name}: {problem}")
    return of(claim)


def _fault(name: str, value: object) -> str | None:
    if name == "arguments":
        return next(_rule_faults(value), None)
    if name not in KEYS:
        return f"no such limit; there is {', '.join(KEYS)}"
    if type(value) is not int or not 1 <= value <= MOST_CALLS:  # bool is an int, and no number
        return f"must be a whole number from 1 to {MOST_CALLS}"
    return None


def _rule_faults(rules: object) -> Iterator[str]:
    if not isinstance(rules, dict):
        yield "must map SERVER:TOOL patterns to JSON Schemas"
        return
    if len(rules) > MOST_RULES:
        yield f"more than {MOST_RULES} rules"
        return
    for pattern, schema in rules.items():
        if not is_tool_pattern(pattern):
            yield f"{pattern!r} is not SERVER:TOOL"
        problem = constraints.fault(schema)
        if problem:
            yield f"{pattern}: {problem}"


def is_tool_pattern(text: str) -> bool:
    """Whether `text` is SERVER:TOOL, with patterns on both sides."""
    server, _, tool = text.partition(":")
    return bool(server and tool)


class Limiter:
    """Holds each token identity to its limits; one a gateway, called in its event loop.

    A renewed token goes on where the last one was. The counts are in memory: a restarted gateway
    starts from nothing. `state.rates` has those of all gateways together.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_flight: dict[Identity, int] = {}
        self._windows: dict[Identity, _Window] = {}

    def admit(
        self, agent: Agent, server: str, tool: str | None, arguments: object
    ) -> AbstractContextManager[None]:
        """A context to make the call in: entering it raises Limited, or counts the call.

        A call that is refused counts for nothing. `arguments` are checked as they came, None as
        the empty object; where no `tool` is called there are none to check.
        """
        if agent.limits is NONE:
            return _FREE
        return self._held(agent, server, tool, {} if arguments is None else arguments)

    @contextlib.contextmanager
    def _held(
        self, agent: Agent, server: str, tool: str | None, arguments: object
    ) -> Iterator[None]:
        identity, limits = agent.identity, agent.limits
        busy = self._in_flight.get(identity, 0)
        if limits.in_flight is not None and busy >= limits.in_flight:
            raise too_many(limits.in_flight)
        window = self._window(identity, limits)
        if tool is not None:
            _check_arguments(limits, server, tool, arguments)
        if window is not None:
            window.count(self._clock())
        self._in_flight[identity] = busy + 1
        try:
            yield
        except Limited:  # other gateways' calls fill the limit, so this one counts for nothing
            if window is not None:
                window.take_back()
            raise
        finally:
            self._leave(identity)

    def _window(self, identity: Identity, limits: Limits) -> _Window | None:
        """The identity's window, which has room; None where calls a minute are not limited."""
        if limits.calls_per_minute is None:
            return None
        now = self._clock()
        window = self._windows.pop(identity, None) or _Window()
        self._windows[identity] = window  # the last used is the last in order
        self._forget(now)
        wait = window.wait(now, limits.calls_per_minute)
        if wait > 0:
            raise too_fast(limits.calls_per_minute, wait)
        return window

    def _forget(self, now: float) -> None:
        """Drop windows that say nothing any more, and the longest unused of too many."""
        while len(self._windows) > 1:
            first = next(iter(self._windows))
            if len(self._windows) <= _WINDOWS and not self._windows[first].is_over(now):
                return
            del self._windows[first]

    def _leave(self, identity: Identity) -> None:
        left = self._in_flight[identity] - 1
        if left:
            self._in_flight[identity] = left
        else:
            del self._in_flight[identity]


@dataclass(slots=True)
class _Span:
    """Calls that began within a second."""

    begin: float
    end: float
    calls: int = 1


class _Window:
    """How many calls began in the last minute, by the second: at most 61 counts.

    Calls of one second leave the window with its last one, so there are never more in any minute
    than are allowed, and a wait is at most a second too long.
    """

    __slots__ = ("_spans", "_total")

    def __init__(self) -> None:
        self._spans: deque[_Span] = deque()
        self._total = 0

    def count(self, now: float) -> None:
        """One call begins."""
        last = self._spans[-1] if self._spans else None
        if last is not None and now - last.begin < _GRAIN:
            last.end = now
            last.calls += 1
        else:
            self._spans.append(_Span(now, now))
        self._total += 1

    def take_back(self) -> None:
        """The last call that began did not."""
        if self._spans:
            self._spans[-1].calls -= 1
            self._total -= 1

    def is_over(self, now: float) -> bool:
        """Whether all its calls began more than a minute ago."""
        return not self._spans or self._spans[-1].end + WINDOW <= now

    def wait(self, now: float, most: int) -> float:
        """Seconds until one more call may begin."""
        while self._spans and self._spans[0].end + WINDOW <= now:
            self._total -= self._spans.popleft().calls
        over = self._total - most + 1
        for span in self._spans:
            if over <= 0:
                return 0.0
            over -= span.calls
            if over <= 0:
                return span.end + WINDOW - now
        return 0.0


def _check_arguments(limits: Limits, server: str, tool: str, arguments: object) -> None:
    for schema in limits.schemas(server, tool) if limits.arguments else ():
        broken = constraints.unmet(schema, arguments)
        if broken:
            raise Limited(
                "arguments",
                f"the token limits the arguments of {server}:{tool}: {broken}; the same arguments"
                " will be refused again",
            )


def too_many(most: int) -> Limited:
    """`most` calls are in flight already."""
    calls = "1 call" if most == 1 else f"{most} calls"
    return Limited(
        "in_flight",
        f"the token allows {calls} in flight (in_flight): try again when one has ended, or in 1 s",
        1.0,
    )


def too_fast(most: int, wait: float) -> Limited:
    """`most` calls began in the last minute; the next may in `wait` seconds."""
    calls = "1 call" if most == 1 else f"{most} calls"
    return Limited(
        "calls_per_minute",
        f"the token allows {calls} a minute (calls_per_minute): try again in {math.ceil(wait)} s",
        wait,
    )
