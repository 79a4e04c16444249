from hypothesis import given
from hypothesis import strategies as st

from mcpcp.config import RestartPolicy
from mcpcp.fleet import ProcessState
from mcpcp.supervisor.restarts import End, Verdict, judge

POLICY = RestartPolicy(backoff=0.1, max_backoff=1.0, burst=5, slow_retry=60, stable_after=5)
CRASH = End(code=1, ready_for=None)
MIDDLE = 0.5  # the spread that leaves delays as they are


def test_each_failed_start_doubles_the_delay() -> None:
    delays = [judge(POLICY, failures, CRASH, MIDDLE).delay for failures in range(4)]
    assert delays == [0.1, 0.2, 0.4, 0.8]


def test_a_burst_of_failures_is_fatal_and_tried_again_slowly() -> None:
    assert judge(POLICY, 4, CRASH, MIDDLE) == Verdict(ProcessState.FATAL, 60, 5)
    assert judge(POLICY, 5, CRASH, MIDDLE) == Verdict(ProcessState.FATAL, 60, 6)


def test_one_that_served_long_enough_is_started_at_once_and_its_failures_are_forgotten() -> None:
    assert judge(POLICY, 4, End(-9, 5.0), 0.9) == Verdict(ProcessState.BACKOFF, 0.0, 0)


def test_one_that_served_too_shortly_counts_as_a_failed_start() -> None:
    assert judge(POLICY, 1, End(-9, 4.9), MIDDLE).failures == 2


def test_always_restarts_also_what_ended_well() -> None:
    assert judge(POLICY, 0, End(0, 10.0), MIDDLE).delay == 0.0


def test_on_failure_lets_what_ended_well_rest() -> None:
    policy = RestartPolicy(when="on-failure")
    assert judge(policy, 0, End(0, 10.0), MIDDLE) == Verdict(ProcessState.EXITED, None, 0)
    assert judge(policy, 0, End(1, 10.0), MIDDLE).delay == 0.0


def test_never_restarts_nothing() -> None:
    policy = RestartPolicy(when="never")
    assert judge(policy, 0, CRASH, MIDDLE).state is ProcessState.EXITED
    assert judge(policy, 0, End(-9, 100), MIDDLE).delay is None


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.integers(1, 20_000))
def test_no_delay_is_ever_longer_than_allowed(failures: int, spread: float, burst: int) -> None:
    policy = RestartPolicy(backoff=0.05, max_backoff=30, slow_retry=60, burst=burst)
    delay = judge(policy, failures, CRASH, spread).delay
    assert delay is not None
    assert 0 < delay <= 60 * 1.25


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_a_quarter(spread: float) -> None:
    delay = judge(POLICY, 0, CRASH, spread).delay
    assert delay is not None
    assert 0.075 <= delay <= 0.125
