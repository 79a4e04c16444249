"""`mcpcp stdio --no-launch` without a fleet: what it says, it says as the config wants it."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.gateway.harness import PATIENCE, Gateway, call, request
from tests.gateway.test_sessions import NEWEST


def said(gateway: Gateway, *messages: object) -> tuple[list[str], str]:
    """The answers to those messages, and what came on stderr."""
    gateway.write()
    server = gateway.stdio(gateway.token())
    with (
        (gateway.folder / "stderr").open("wb") as errors,
        subprocess.Popen(
            [server.command, *server.args],
            cwd=gateway.folder,
            env=server.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        answers = []
        for message in messages:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            answers.append(process.stdout.readline())
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    return answers, (gateway.folder / "stderr").read_text()


HELLO = request("initialize", NEWEST)
ECHO = request("tools/call", call("raw_echo", message="hello there"), 2)


def test_lines_are_json_where_the_config_says_so(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.extra["logs"] = {"format": "json", "level": "info"}
    (_, answer), text = said(fresh, HELLO, ECHO)
    assert "hello there" in answer
    lines = [json.loads(line) for line in text.splitlines()]
    assert any(line["message"].startswith("raw is connected") for line in lines)
    assert {line["level"] for line in lines} == {"INFO"}


def test_lines_are_text_otherwise_and_hold_no_token(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.extra["logs"] = {"level": "debug"}
    _, text = said(fresh, HELLO, ECHO)
    assert " INFO mcpcp.backends.backend: raw is connected" in text
    assert fresh.token().partition(".")[0] not in text
    assert "hello there" not in text


@pytest.mark.parametrize("level", ["warning", "error"])
def test_what_is_less_important_is_left_out(fresh: Gateway, level: str) -> None:
    fresh.add_raw("raw")
    fresh.extra["logs"] = {"level": level}
    (_, answer), text = said(fresh, HELLO, ECHO)
    assert "hello there" in answer
    assert not text
