"""Where a call goes: to the connection that is right for its caller, in its server's era.

Above: `gateway` has found the call allowed. Below: `backends` have the connections, `eras` and
`standins` what stands between a client and a server of different eras.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, NamedTuple

from mcpcp.backends.backend import Backend
from mcpcp.backends.line import Line
from mcpcp.callers import Caller
from mcpcp.catalog import Entry
from mcpcp.eras import ParkingLot, WithoutLogs, modern_error, with_answers
from mcpcp.jsonrpc import Message, RpcError
from mcpcp.peer import Back
from mcpcp.profiles import BASE
from mcpcp.protocol import META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL
from mcpcp.sessions import ClientSession
from mcpcp.standins import StandIns


class Call(NamedTuple):
    """A request that was allowed, on its way to a server; `params` are as the server gets them."""

    caller: Caller
    backend: Backend
    entry: Entry
    method: str
    params: Message
    back: Back

    def over(self, line: Line) -> Awaitable[Any]:
        """Send it on `line`; its result."""
        repeatable = self.entry.repeatable
        return line.relay(self.method, self.params, back=self.back, repeatable=repeatable)


class Routes:
    """The ways to the servers; calls that wait for their clients are parked in `parked`."""

    def __init__(self, parked: ParkingLot, stand_ins: StandIns) -> None:
        self._parked = parked
        self._stand_ins = stand_ins

    def send(self, call: Call) -> Awaitable[Any]:
        """Send on the connection that is right for this caller; translate where eras differ."""
        caller, backend = call.caller, call.backend
        if caller.modern:
            return call.over(backend.line) if backend.modern else self._send_older(call)
        line = self._line(caller, backend)
        if line.connection is None or line.connection.modern:
            return self._send_newer(call, line)
        return call.over(line)

    async def _send_newer(self, call: Call, line: Line) -> Any:
        """A legacy client before a server that is modern, or may turn out to be."""
        connection = line.connection or await line.wait()
        if not connection.modern:
            return await call.over(line)
        params = _introduced(call.caller, call.params)
        return await with_answers(lambda p: call._replace(params=p).over(line), params, call.back)

    async def _send_older(self, call: Call) -> Any:
        """A modern client before a legacy server."""
        if META_LOG_LEVEL not in call.params["_meta"]:
            call = call._replace(back=WithoutLogs(call.back))
        try:
            if call.caller.profile != BASE:
                return await self._send_parked(call)
            return await call.over(call.backend.line)
        except RpcError as error:
            raise modern_error(error) from None

    async def _send_parked(self, call: Call) -> Any:
        """A modern client before a legacy server that may ask it something in the middle."""
        caller, backend, params = call.caller, call.backend, call.params
        line = self.stand_in(caller).link(backend).line if backend.has_sessions else backend.line
        plain = {k: v for k, v in params.items() if k not in ("inputResponses", "requestState")}

        async def begin(way: Back) -> Any:
            return await call._replace(params=plain, back=way).over(line)

        owner = (caller.agent.identity, call.entry.name, call.method)
        return await self._parked.call(owner, params, call.back, begin)

    def _line(self, caller: Caller, backend: Backend) -> Line:
        """A legacy client's own session with the server, where it can have one; else the shared."""
        own = caller.session is not None and backend.has_sessions
        return caller.session.link(backend).line if own and caller.session else backend.line

    def stand_in(self, caller: Caller) -> ClientSession:
        """The session with legacy servers in the name of a modern client."""
        return self._stand_ins.get(caller.agent.identity, caller.profile)


def _introduced(caller: Caller, params: Message) -> Message:
    """A legacy client's params for a modern server, which is told with each request who asks."""
    session = caller.session
    if session is None:
        return params
    envelope: Message = {
        META_CLIENT_INFO: session.hello.info,
        META_CLIENT_CAPABILITIES: session.hello.capabilities,
    }
    if session.log_level is not None:
        envelope[META_LOG_LEVEL] = session.log_level
    return {**params, "_meta": {**envelope, **(params.get("_meta") or {})}}
