"""Limits: read strictly, held to exactly, forgotten in time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpcp import limits
from mcpcp.errors import Limited, Refused
from mcpcp.limits import MOST_CALLS, MOST_RULES, WINDOW, Limiter
from mcpcp.policy import NONE, Agent, Allowlist, Limits


class Clock:
    """Seconds, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock)


def agent(name: str = "me", serial: str = "1", **claim: Any) -> Agent:
    return Agent(name, Allowlist(), "us", serial, 0.0, limits.parse(claim))


def refusal(call: Callable[[], AbstractContextManager[None]]) -> Limited:
    with pytest.raises(Limited) as caught, call():
        pytest.fail("admitted")
    return caught.value


def admit(limiter: Limiter, who: Agent, **arguments: Any) -> AbstractContextManager[None]:
    return limiter.admit(who, "mcp1", "echo", arguments)


def calls(limiter: Limiter, who: Agent, most: int) -> int:
    """How many of `most` calls, one after another, are let in."""
    for n in range(most):
        try:
            with admit(limiter, who):
                pass
        except Limited:
            return n
    return most


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (None, "must be an object"),
        ([], "must be an object"),
        ({"calls": 1}, "calls: no such limit"),
        ({"calls_per_minute": 0}, "from 1 to"),
        ({"calls_per_minute": -1}, "from 1 to"),
        ({"calls_per_minute": True}, "from 1 to"),
        ({"calls_per_minute": 1.0}, "from 1 to"),
        ({"calls_per_minute": None}, "from 1 to"),
        ({"calls_per_minute": MOST_CALLS + 1}, "from 1 to"),
        ({"in_flight": "2"}, "from 1 to"),
        ({"arguments": []}, "must map"),
        ({"arguments": {"echo": {}}}, "is not SERVER:TOOL"),
        ({"arguments": {":echo": {}}}, "is not SERVER:TOOL"),
        ({"arguments": {"mcp1:": {}}}, "is not SERVER:TOOL"),
        ({"arguments": {"mcp1:echo": True}}, "mcp1:echo: must be a JSON Schema"),
        ({"arguments": {"mcp1:echo": {"$ref": "http://x"}}}, "mcp1:echo: "),
        ({"arguments": {f"a:{n}": {} for n in range(MOST_RULES + 1)}}, "more than 64 rules"),
    ],
)
def test_claims_that_are_refused(claim: Any, why: str) -> None:
    with pytest.raises(ValueError, match=".*" + why):
        limits.parse(claim)


def test_no_limits_are_one_value() -> None:
    assert limits.parse({}) is NONE
    assert limits.parse({"arguments": {}}) is NONE
    assert limits.to_claim(NONE) == {}


CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "calls_per_minute": st.integers(1, MOST_CALLS),
        "in_flight": st.integers(1, MOST_CALLS),
        "arguments": st.dictionaries(
            st.sampled_from(["a:b", "*:*", "a:b:c"]),
            st.sampled_from([{}, {"type": "object", "required": ["a"]}, {"maxProperties": 1}]),
        ),
    },
)


@given(CLAIMS)
def test_limits_and_claims_are_each_others_reverse(claim: dict[str, Any]) -> None:
    parsed = limits.parse(claim)
    assert limits.parse(limits.to_claim(parsed)) == parsed
    turned = {k: dict(reversed(v.items())) if k == "arguments" else v for k, v in claim.items()}
    assert limits.parse(turned) == parsed
    assert hash(limits.parse(turned)) == hash(parsed)


def test_an_agent_without_limits_is_always_let_in_and_leaves_nothing_behind(
    limiter: Limiter,
) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(admit(limiter, agent()))
    assert (limiter._windows, limiter._in_flight) == ({}, {})


def test_calls_in_flight_are_bounded_until_one_ends(limiter: Limiter) -> None:
    who = agent(in_flight=2)
    with admit(limiter, who):
        with admit(limiter, who):
            refused = refusal(lambda: admit(limiter, who))
        with admit(limiter, who):
            pass
    assert refused.rule == "in_flight"
    assert refused.retry_after == 1.0
    assert "allows 2 calls in flight (in_flight): try again" in str(refused)
    assert isinstance(refused, Refused)
    assert limiter._in_flight == {}


def test_a_call_that_fails_is_over_too(limiter: Limiter) -> None:
    who = agent(in_flight=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admit(limiter, who):
            _ = 1 / 0


def test_an_admission_that_is_never_entered_counts_for_nothing(limiter: Limiter) -> None:
    who = agent(in_flight=1, calls_per_minute=1)
    admit(limiter, who)
    assert calls(limiter, who, 5) == 1


def test_calls_a_minute_are_bounded_and_the_error_says_when_to_come_back(
    limiter: Limiter, clock: Clock
) -> None:
    who = agent(calls_per_minute=3)
    assert calls(limiter, who, 10) == 3
    clock.now += 12.5
    refused = refusal(lambda: admit(limiter, who))
    assert refused.rule == "calls_per_minute"
    assert refused.retry_after == pytest.approx(WINDOW - 12.5)
    assert str(refused).endswith("3 calls a minute (calls_per_minute): try again in 48 s")
    clock.now += refused.retry_after or 0
    assert calls(limiter, who, 10) == 3


@given(st.integers(1, 5), st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=60))
@example(2, [1.2643272681231181, 0.0, 0.0, 0.0])
def test_no_minute_ever_sees_more_calls_than_are_allowed_and_waits_are_true(
    most: int, pauses: list[float]
) -> None:
    clock = Clock()
    limiter, who = Limiter(clock), agent(calls_per_minute=most)
    begun: list[float] = []
    rounding = 1e-6  # sums of times differ in their last bit
    for pause in pauses:
        clock.now += pause
        recent = sum(at > clock.now - WINDOW + rounding for at in begun)
        try:
            with admit(limiter, who):
                begun.append(clock.now)
            assert recent < most
        except Limited as error:
            # Never refused for nothing: what it waits for is within a second of its minute's end.
            assert sum(at > clock.now - WINDOW - 1 for at in begun) >= most
            assert error.retry_after is not None
            clock.now += error.retry_after + rounding
            with admit(limiter, who):
                begun.append(clock.now)


def test_a_renewed_token_goes_on_with_the_same_counts_and_others_have_their_own(
    limiter: Limiter,
) -> None:
    assert calls(limiter, agent(serial="1", calls_per_minute=2), 1) == 1
    assert calls(limiter, agent(serial="2", calls_per_minute=2), 5) == 1
    assert calls(limiter, agent("you", calls_per_minute=2), 5) == 2


def test_what_is_refused_counts_for_nothing(limiter: Limiter, clock: Clock) -> None:
    who = agent(calls_per_minute=2, in_flight=1, arguments={"mcp1:*": {"maxProperties": 0}})
    for _ in range(5):
        assert refusal(lambda: admit(limiter, who, a=1)).rule == "arguments"
    with admit(limiter, who):
        assert refusal(lambda: admit(limiter, who)).rule == "in_flight"
    assert calls(limiter, who, 5) == 1


def test_arguments_must_meet_every_schema_whose_pattern_names_the_tool(limiter: Limiter) -> None:
    who = agent(
        arguments={
            "mcp1:*": {"required": ["a"]},
            "*:echo": {"properties": {"a": {"maxLength": 1}}},
            "mcp2:echo": {"required": ["never"]},
        }
    )
    with admit(limiter, who, a="x"):
        pass
    refused = refusal(lambda: admit(limiter, who))
    assert str(refused) == (
        'the token limits the arguments of mcp1:echo: the arguments must meet {"required": ["a"]};'
        " the same arguments will be refused again"
    )
    assert (refused.rule, refused.retry_after) == ("arguments", None)
    assert "a must meet" in str(refusal(lambda: admit(limiter, who, a="xx")))
    with limiter.admit(who, "mcp3", "other", {}):
        pass


def test_no_arguments_are_the_empty_object_and_others_are_checked_as_they_came(
    limiter: Limiter,
) -> None:
    who = agent(arguments={"*:*": {"type": "object"}})
    with limiter.admit(who, "mcp1", "echo", None):
        pass
    others: list[Any] = [[], "x", 1, False]
    for other in others:
        refused = refusal(partial(limiter.admit, who, "mcp1", "echo", other))
        assert refused.rule == "arguments"


def test_memory_is_bounded_in_identities_and_in_calls(
    limiter: Limiter, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpcp.limits._WINDOWS", 3)
    for n in range(9):
        assert calls(limiter, agent(f"a{n}", calls_per_minute=1), 2) == 1
    assert [identity[1] for identity in limiter._windows] == ["a6", "a7", "a8"]
    clock.now += 61
    busy = agent("busy", calls_per_minute=100_000)
    for _ in range(2000):
        clock.now += 0.05
        assert calls(limiter, busy, 5) == 5
    assert [identity[1] for identity in limiter._windows] == ["busy"]  # the others are over
    assert len(limiter._windows[busy.identity]._spans) <= WINDOW + 1


def test_limits_are_part_of_the_identity() -> None:
    assert agent().identity != agent(in_flight=1).identity
    assert agent(in_flight=1).identity == agent(serial="2", in_flight=1).identity


def test_without_limits_a_call_is_let_in_without_a_look_at_anything() -> None:
    def no_clock() -> float:
        raise AssertionError("it asked for the time")

    limiter, who = Limiter(no_clock), agent()
    contexts = {id(limiter.admit(who, "mcp1", "echo", {"message": n})) for n in range(9)}
    assert len(contexts) == 1, "nothing is made for a call"
    with limiter.admit(who, "mcp1", "echo", object()):
        assert not limiter._in_flight
        assert not limiter._windows


def test_an_empty_limits_value_of_other_hands_is_held_to_nothing(limiter: Limiter) -> None:
    assert calls(limiter, Agent("me", Allowlist(), "us", "1", 0.0, Limits()), 50) == 50


def test_a_call_that_other_gateways_calls_leave_no_room_for_counts_for_nothing(
    limiter: Limiter,
) -> None:
    who = agent(calls_per_minute=1)
    for _ in range(3):
        with pytest.raises(Limited, match="elsewhere"), admit(limiter, who):
            raise Limited("calls_per_minute", "elsewhere")
    with admit(limiter, who):
        pass
