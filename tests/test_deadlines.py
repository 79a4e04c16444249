"""Who waits is as patient as what it waits for: else a slow machine's work is thrown away."""

from __future__ import annotations

import pytest

from mcpcp import channel, control, relay, tracing
from mcpcp.backends import connection, line
from mcpcp.cli import data, fleet, launching
from mcpcp.config import GatewayConfig, RestartPolicy
from mcpcp.supervisor import background, commands, forking, process, roster, specs, zygote
from servers.shop import checkout, store

START = RestartPolicy().start_timeout
END = RestartPolicy().stop_timeout + process.KILL_TIMEOUT
GATEWAYS_END = GatewayConfig().drain + specs.STOP_MARGIN + process.KILL_TIMEOUT
AGAIN = START + roster.RESTART_MARGIN


@pytest.mark.parametrize(
    ("patience", "needed"),
    [
        pytest.param(START, forking.WARM_UP, id="a start, for a server's imports"),
        pytest.param(zygote.REPARENT_DEADLINE, forking.FORK_TIMEOUT, id="a fork, for its parent"),
        pytest.param(background.PATIENCE, START, id="a fleet's starter, for its gateway"),
        pytest.param(fleet.READY_PATIENCE, START, id="mcpcp up, for a server"),
        pytest.param(launching.STOP_PATIENCE, GATEWAYS_END + END, id="mcpcp down, for the fleet"),
        pytest.param(launching.STOP_PATIENCE, GATEWAYS_END + AGAIN, id="mcpcp restart gateway"),
        pytest.param(data.RESTART_PATIENCE, END + AGAIN, id="mcpcp data, for a server's restart"),
        pytest.param(relay.RECONNECT_TIMEOUT, START, id="a relay, for another gateway"),
        pytest.param(connection.HANDSHAKE_TIMEOUT, START, id="a handshake, for a server's start"),
        pytest.param(line.RESTART_WAIT, process.KILL_TIMEOUT, id="a request, for a server's end"),
        pytest.param(
            control.ANSWER_TIMEOUT, commands.ANSWER_TIMEOUT, id="who asks, for who answers"
        ),
        pytest.param(channel.HELLO_TIMEOUT, control.ANSWER_TIMEOUT, id="a gateway, for its hello"),
        pytest.param(
            specs.STOP_MARGIN,
            2 * tracing.LAST_WAITS * tracing.WAIT,
            id="a gateway's stop, for its last spans",
        ),
        pytest.param(
            checkout.STALE_SECONDS,
            checkout.COMMITS * store.ANSWER_SECONDS,
            id="an order's sweep, for its call",
        ),
    ],
)
def test_who_waits_is_as_patient_as_what_it_waits_for(patience: float, needed: float) -> None:
    assert patience >= needed
