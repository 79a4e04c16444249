"""Each server's own secret, and what a server is told of those that it may call."""

from __future__ import annotations

import json
import os

import pytest

from mcpcp.credentials import credential_for, lent
from servers.plumbing.credential import CredentialError, take_credential

FLEET = "ab" * 32


def told(data: bytes) -> dict[str, str]:
    """The environment of a server that is told `data`."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return {"MCPCP_CREDENTIAL_FD": str(reader)}


def test_every_server_has_another_secret_and_none_is_the_fleet_s() -> None:
    secrets = {credential_for(FLEET, name) for name in ("a", "b", "ab")}
    assert len(secrets) == 3 and FLEET not in secrets
    assert credential_for(FLEET, "a") in secrets
    assert credential_for("cd" * 32, "a") not in secrets


def test_a_server_learns_its_secret_and_those_of_the_servers_it_may_call() -> None:
    environ = told(lent(FLEET, "caller", {"called": "http://127.0.0.1:9"}))
    found = take_credential(environ)
    assert found and "MCPCP_CREDENTIAL_FD" not in environ
    assert found.credential.secret.decode() == credential_for(FLEET, "caller")
    [(name, callee)] = found.callees.items()
    assert (name, callee.url) == ("called", "http://127.0.0.1:9")
    assert callee.headers() == {"x-mcpcp-credential": credential_for(FLEET, "called")}
    assert callee.secret not in repr(found)


def test_one_that_calls_nobody_is_told_of_nobody() -> None:
    found = take_credential(told(lent(FLEET, "alone", {})))
    assert found and found.callees == {}


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"secret\nnonsense\n", b"secret\n[]\n", b'secret\n{"calls": {"b": {"url": "u"}}}'],
)
def test_a_damaged_one_is_an_error_and_no_open_door(data: bytes) -> None:
    with pytest.raises(CredentialError):
        take_credential(told(data))


def test_what_is_told_is_a_line_and_one_object() -> None:
    own, more = lent(FLEET, "a", {"b": "u", "c": "v"}).decode().splitlines()
    assert len(own) == 64
    assert list(json.loads(more)["calls"]) == ["b", "c"]
