"""What the driver's errors mean for a write: not done, or nobody knows."""

from __future__ import annotations

import pytest
from pymongo.errors import (
    AutoReconnect,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from servers.shop.errors import Away, Unsure
from servers.shop.store import of_write


@pytest.mark.parametrize(
    "error",
    [
        ServerSelectionTimeoutError("nobody there"),
        NotPrimaryError("not primary", {"code": 10107}),
        NotPrimaryError("not primary", {"code": 13435}),
        OperationFailure("database or disk is full"),
        OperationFailure("no room", 14031),
    ],
)
def test_what_was_not_done_is_said_to_be_undone(error: PyMongoError) -> None:
    assert isinstance(of_write(error), Away)


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("connection closed"),
        NetworkTimeout("timed out"),
        WTimeoutError("waiting for replication timed out", 64),
        NotPrimaryError("interrupted by a step down", {"code": 11602}),
        NotPrimaryError("the primary stepped down", {"code": 189}),
        NotPrimaryError("interrupted at shutdown", {"code": 11600}),
        NotPrimaryError("shutdown in progress", {"code": 91}),
        NotPrimaryError("node is recovering"),
    ],
)
def test_what_may_have_been_done_is_never_said_to_be_undone(error: PyMongoError) -> None:
    assert isinstance(of_write(error), Unsure)
