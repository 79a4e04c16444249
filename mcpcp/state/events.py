"""What legacy sessions were told, for gateways that did not tell it.

While the gateway of a session lives, requests for it are passed on to that one (`peers`). When it
has gone, whoever is asked for a cut stream replays what the dead one had sent, and ends each call
that was under way there with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mcpcp.jsonrpc import CONNECTION_CLOSED, decode, encode, error_response


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream: its text as sent; of a call's first also the call's id, as JSON."""

    stream: int
    number: int
    data: bytes = b""
    call: str = ""
    last: bool = False


Keep = Callable[[Event], None]


def left_to_tell(events: Iterable[Event], last_event_id: str) -> list[bytes] | None:
    """What came on the stream of `last_event_id` after it; None where nothing can be told.

    A call whose end was not told is ended by an error: its gateway is gone, and who it was for
    would wait for ever.
    """
    stream, _, number = last_event_id.partition("-")
    if not (stream.isdecimal() and number.isdecimal()):
        return None
    own = [event for event in events if event.stream == int(stream)]
    told = [event.data for event in own if event.number > int(number) and event.data]
    call = next((event.call for event in own if event.call), "")
    if call and not any(event.last for event in own):
        last = max(event.number for event in own) + 1
        told.append(_interrupted(int(stream), last, call))
    return told or None


def _interrupted(stream: int, number: int, call: str) -> bytes:
    error = {
        "code": CONNECTION_CLOSED,
        "message": "the gateway that ran this call is gone: whether it took effect is not known",
    }
    text = encode(error_response(decode(call.encode()), error))
    return b"id: %d-%d\nevent: message\ndata: %b\n\n" % (stream, number, text)
