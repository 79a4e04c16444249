"""What the gateway counts; how it looks over HTTP is in tests/gateway."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from mcpcp.histogram import BOUNDS, Timings
from mcpcp.metrics import OTHER, Metrics, ServerFigures


def samples(metrics: Metrics, *servers: ServerFigures) -> dict[tuple[str, ...], float]:
    """Each sample by its name and its labels' values, in the labels' order."""
    text = metrics.render(servers, audit_failing=False).decode()
    return {
        (s.name, *(s.labels[key] for key in sorted(s.labels))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_calls_are_counted_by_outcome_and_timed_by_tool() -> None:
    metrics = Metrics()
    for outcome, seconds in (("ok", 0.002), ("ok", 0.004), ("timeout", 60.0), ("ok", 1e6)):
        metrics.end(metrics.begin("s", "tools/call", "t"), outcome, seconds)
    found = samples(metrics)
    assert found["mcpcp_calls_total", "ok", "s", "t"] == 3
    assert found["mcpcp_calls_total", "timeout", "s", "t"] == 1
    assert found["mcpcp_calls_total", "error", "s", "t"] == 0
    times = "mcp_server_operation_duration_seconds"
    assert found[f"{times}_count", "t", "tools/call", "s"] == 4
    assert found[f"{times}_sum", "t", "tools/call", "s"] == 1e6 + 60.006
    buckets = {k[2]: v for k, v in found.items() if k[0] == f"{times}_bucket"}
    assert [buckets[le] for le in ("0.001", "0.0025", "0.005", "60.0", "300.0", "+Inf")] == [
        *(0, 1, 2, 3, 3, 4)
    ]
    assert (metrics.calls, metrics.errors) == (4, 1)


def test_a_name_that_a_server_made_up_can_t_break_the_text() -> None:
    name = 'a"b\\c\nd} 1'
    metrics = Metrics()
    metrics.end(metrics.begin("s", "tools/call", name), "ok", 0.1)
    found = samples(metrics)
    assert found["mcp_server_operation_duration_seconds_count", name, "tools/call", "s"] == 1
    assert found["mcpcp_calls_total", "ok", "s", name] == 1


def test_a_time_on_a_bound_belongs_to_its_bucket() -> None:
    for index, bound in enumerate(BOUNDS):
        timings = Timings()
        timings.observe(bound)
        assert timings.counts[index] == 1


def test_names_beyond_the_limit_and_strange_methods_share_a_label() -> None:
    metrics = Metrics(most_series=20)
    for number in range(120):
        metrics.end(metrics.begin("s", "tools/call", f"t{number}"), "ok", 0.1)
    for number in range(100):
        metrics.end(metrics.begin("s", f"made/up/{number}", f"made/up/{number}"), "ok", 0.1)
    found = samples(metrics)
    names = {key[-1] for key in found if key[0] == "mcpcp_calls_total"}
    assert len(names) == 21
    assert found["mcpcp_calls_total", "ok", "s", OTHER] == 200
    assert not [key for key in found if "made/up" in str(key)]


def test_refusals_are_counted_by_reason() -> None:
    metrics = Metrics()
    metrics.deny("in_flight")
    metrics.deny("expired")
    found = samples(metrics)
    assert found["mcpcp_denied_total", "in_flight"] == found["mcpcp_denied_total", "expired"] == 1
    assert found["mcpcp_denied_total", "withheld"] == 0
    assert found["mcpcp_denied_total", "revoked"] == 0
    assert metrics.denied == 2


def test_a_call_under_way_is_seen_before_its_end() -> None:
    metrics = Metrics()
    operation = metrics.begin("s", "tools/call", "slow")
    during = samples(metrics)
    assert during["mcpcp_calls_in_flight", "s"] == 1
    assert during["mcpcp_calls_total", "ok", "s", "slow"] == 0
    metrics.end(operation, "cancelled", 5.0)
    after = samples(metrics)
    assert after["mcpcp_calls_in_flight", "s"] == 0
    assert after["mcpcp_calls_total", "cancelled", "s", "slow"] == 1


def test_sessions_are_counted_while_they_last_and_timed_after() -> None:
    metrics = Metrics()
    with metrics.session():
        assert samples(metrics)["mcpcp_sessions",] == 1
    found = samples(metrics)
    assert found["mcpcp_sessions",] == 0
    assert found["mcp_server_session_duration_seconds_count",] == 1


def test_servers_are_shown_as_they_are_now() -> None:
    metrics = Metrics()
    found = samples(metrics, ServerFigures("a", True, 2, 5, 3), ServerFigures("b", False, 0, 0, 0))
    assert found["mcpcp_backend_up", "a"] == 1
    assert found["mcpcp_backend_reconnects_total", "a"] == 2
    assert found["mcpcp_calls_waiting", "a"] == 5
    assert found["mcpcp_tools_withheld", "a"] == 3
    assert found["mcpcp_backend_up", "b"] == 0
    assert ("mcpcp_backend_up", "a") not in samples(metrics)
