"""Streamable HTTP: one POST a message, whose answer is JSON or an event stream of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from mcpcp.backends.addresses import Address, Addresses
from mcpcp.backends.events import Place, follow
from mcpcp.backends.http import HttpClient, Response, encode_headers
from mcpcp.backends.transports import LOST, PING, Fail, Receive, refusal
from mcpcp.errors import Interrupted, McpcpError, ProtocolError, Unavailable
from mcpcp.jsonrpc import Message, RpcError, decode_reply, encode
from mcpcp.paramheaders import DeclaredBy, encode_header, made
from mcpcp.protocol import LISTEN, META_VERSION

logger = logging.getLogger(__name__)

_ACCEPT: Final = "application/json, text/event-stream"
_LISTEN_RETRY: Final = 1.0
_LEAST_RETRY: Final = 0.1
_LASTING: Final = ("initialize", LISTEN)
_NAME_KEYS: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


class StreamableTransport:
    """A session of a streamable HTTP server, or its stateless use in the modern era."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        declared: DeclaredBy,
        addresses: Addresses | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._url = url
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._client = HttpClient(url, headers, addresses)
        self._addresses = addresses
        self._declared = declared
        self._session: str | None = None
        self._version: str | None = None
        self._plain_head = self._post_head = self._make_post_head()
        self._ended = asyncio.Event()
        self._listening = asyncio.Event()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._streams: dict[int, Response] = {}
        self._tasks: asyncio.TaskGroup
        self._receive: Receive
        self._fail: Fail

    async def run(self, ready: Callable[[], None], receive: Receive, fail: Fail) -> None:
        """See BackendTransport; the connection has ended when the server forgot the session."""
        self._receive, self._fail = receive, fail
        try:
            async with asyncio.TaskGroup() as self._tasks:
                helpers = [
                    self._tasks.create_task(self._send_outbox()),
                    self._tasks.create_task(self._listen()),
                ]
                ready()
                await self._ended.wait()
                for helper in helpers:
                    helper.cancel()
        finally:
            await self._delete_session()
            self._client.close()

    async def send(self, message: Message) -> None:
        """See BackendTransport; the answer is received in passing."""
        answer = await self._post(message)
        self._note_session(answer, message)
        status = answer.head.status
        if status == 200 and answer.head.content_type == b"text/event-stream":
            # The answer comes on this stream; reading it goes on while the caller waits.
            self._read_on(answer, message)
            return
        body = await answer.read()
        if status in LOST and await self._is_lost(status, body, message):
            self._ended.set()
            raise Unavailable("the server forgot the session")
        if status in (200, 400, 404) and body.lstrip()[:1] in (b"{", b"["):
            # The modern era has statuses for its errors.
            if self._take_body(body, message["id"], answer.address):
                return
        elif status >= 300:
            raise refusal(status)
        self._fail(message["id"], Interrupted("the server took the request without an answer"))

    def _read_on(self, answer: Response, message: Message) -> None:
        reading = self._read_stream(answer, message)
        try:
            self._tasks.create_task(reading)
        except RuntimeError:  # the connection ends just now, and its group takes no more
            reading.close()
            answer.close()
            raise Unavailable("the connection was closed") from None

    async def _post(self, message: Message) -> Response:
        lasting = message["method"] in _LASTING
        try:
            return await self._client.send(
                self._head(message), encode(message), home=self._home(message), lasting=lasting
            )
        except Interrupted:
            raise
        except Unavailable:
            if self._session is not None and self._addresses is not None:
                self._ended.set()  # its replica is gone, maybe for good: another has to do
            raise

    async def _is_lost(self, status: int, body: bytes, message: Message) -> bool:
        """Whether the server has forgotten the session."""
        if self._session is None:
            return False
        if status == 404:
            return True
        if message["method"] == "initialize" or _is_answer(body, message["id"]):
            return False
        answer = await self._client.send(self._post_head, encode(PING))
        answer.close()
        return answer.head.status in LOST

    def send_soon(self, message: Message) -> None:
        """See BackendTransport."""
        self._outbox.put_nowait(message)

    def abandon(self, request_id: int) -> None:
        """See BackendTransport; in the modern era a closed stream is how a call is cancelled."""
        answer = self._streams.get(request_id)
        if answer is not None:
            answer.close()

    def negotiated(self, version: str) -> None:
        """From now on the version header is sent; a legacy session may have a stream of its own."""
        self._version = version
        self._post_head = self._make_post_head()
        if self._session is not None:
            self._listening.set()

    def _home(self, message: Message) -> Address | None:
        """The replica that knows what a half-done call was about."""
        if self._addresses is None or message["method"] not in _NAME_KEYS:
            return None
        return self._addresses.home(message["params"].get("requestState"))

    def _note_state(self, message: Any, address: Address) -> None:
        """Remember which replica has asked the client something in the middle of a call."""
        result = message.get("result") if isinstance(message, dict) else None
        if self._addresses is not None and isinstance(result, dict):
            state = result.get("requestState")
            if isinstance(state, str):
                self._addresses.remember(state, address)

    def _head(self, message: Message) -> bytes:
        meta = (message.get("params") or {}).get("_meta") or {}
        if META_VERSION not in meta:
            return self._post_head
        own = _modern_headers(message, meta[META_VERSION], self._declared)
        return self._plain_head + encode_headers(own)  # this era has no sessions

    def _note_session(self, answer: Response, message: Message) -> None:
        if message["method"] != "initialize":
            return
        session = answer.head.headers.get(b"mcp-session-id")
        if session is not None:
            self._session = session.decode("latin-1")
            self._client.stay_with(answer)
            self._post_head = self._make_post_head()

    def _make_post_head(self) -> bytes:
        """What the heads of all POSTs have in common from now on."""
        headers = {"content-type": "application/json", "accept": _ACCEPT, **self._session_headers()}
        return self._client.head("POST", self._target, headers)

    def _session_headers(self) -> dict[str, str]:
        headers = {}
        if self._session is not None:
            headers["mcp-session-id"] = self._session
        if self._version is not None:
            headers["mcp-protocol-version"] = self._version
        return headers

    def _take_body(self, body: bytes, request_id: int, address: Address) -> bool:
        """Take what came at once; whether the answer was among it."""
        said = _decoded(body)
        answered = False
        for item in said if isinstance(said, list) else (said,):
            if _answers(item, request_id):
                answered = True
                self._note_state(item, address)
            elif isinstance(item, dict) and item.get("id") is None and "error" in item:
                self._fail(request_id, RpcError.of(item["error"]))
                continue
            self._receive(item, request_id)
        return answered

    async def _read_stream(self, answer: Response, message: Message) -> None:
        """Read a call's stream to its answer; one that ends before is taken up where it was."""
        request_id, place = message["id"], Place()
        error: McpcpError = Interrupted("the server ended the stream before its answer")
        following: Response | None = answer
        try:
            while following is not None:
                self._streams[request_id] = following
                try:
                    if await self._read_to_answer(following, request_id, place):
                        return
                except McpcpError as broken:
                    error = broken
                following = await self._resume(place)
        finally:
            self._streams.pop(request_id, None)
            self._fail(request_id, error)  # does nothing where the answer has come

    async def _read_to_answer(self, answer: Response, request_id: int, place: Place) -> bool:
        answered = False

        def take(event: str, data: bytes) -> bool:
            nonlocal answered
            if event == "message" and data:
                message = _decoded(data)
                answered = _answers(message, request_id)
                if answered:
                    self._note_state(message, answer.address)
                self._receive(message, request_id)
            return answered

        await follow(answer, take, place)
        return answered

    async def _resume(self, place: Place) -> Response | None:
        """The rest of a stream; None where the server can't send it."""
        if place.last_id is None or self._session is None:
            return None
        await asyncio.sleep(place.retry)
        headers = {"accept": "text/event-stream", "last-event-id": place.last_id}
        place.last_id = None  # a stream that brings nothing new is not asked for again
        try:
            answer = await self._client.request(
                "GET", self._target, {**headers, **self._session_headers()}
            )
        except McpcpError:
            return None
        if answer.head.status != 200:
            answer.close()
            return None
        return answer

    async def _send_outbox(self) -> None:
        while True:
            message = await self._outbox.get()
            try:
                answer = await self._client.send(self._head(message), encode(message))
                await answer.read()
            except McpcpError as error:
                logger.info("a notification was not delivered: %s", error)

    async def _listen(self) -> None:
        """Keep the session's own stream open, where the server has one."""
        await self._listening.wait()
        place = Place(retry=_LISTEN_RETRY)
        while await self._read_own_stream(place):  # noqa: ASYNC110  (a pause between tries)
            await asyncio.sleep(max(place.retry, _LEAST_RETRY))

    async def _read_own_stream(self, place: Place) -> bool:
        """Read the stream from `place` to its end; whether it is worth opening again."""
        headers = {"accept": "text/event-stream", **self._session_headers()}
        if place.last_id is not None:
            headers["last-event-id"] = place.last_id
        try:
            answer = await self._client.request("GET", self._target, headers, lasting=True)
            if answer.head.status == 200:
                await follow(answer, self._take_event, place)
                return True
            answer.close()
            if place.last_id is not None and answer.head.status != 404:
                place.last_id = None  # it can't go on there, so it begins again
                return True
        except Interrupted:
            return True
        except Unavailable:
            self._ended.set()
            return False
        except McpcpError as error:
            logger.warning("%s: %s", self._url, error)
            return True
        if answer.head.status == 404:
            self._ended.set()
        return False

    def _take_event(self, event: str, data: bytes) -> None:
        if event == "message" and data:
            self._receive(decode_reply(data))

    async def _delete_session(self) -> None:
        if self._session is None or self._ended.is_set():
            return
        try:
            async with asyncio.timeout(1.0):
                await self._client.request("DELETE", self._target, self._session_headers())
        except (McpcpError, TimeoutError) as error:
            logger.info("the session was not ended: %s", error)


def _is_answer(body: bytes, request_id: int) -> bool:
    """Whether `body` is the answer to that very request."""
    try:
        return _answers(decode_reply(body), request_id)
    except RpcError:
        return False


def _answers(message: Any, request_id: int) -> bool:
    if not isinstance(message, dict) or "method" in message:
        return False
    return type(message.get("id")) is int and message["id"] == request_id


def _decoded(data: bytes) -> Any:
    """The server's JSON; what is none is its own mistake, not the client's."""
    try:
        return decode_reply(data)
    except RpcError as error:
        raise ProtocolError(f"the server's answer is not readable: {error}") from None


def _modern_headers(message: Message, version: str, declared: DeclaredBy) -> dict[str, str]:
    headers = {"mcp-protocol-version": version, "mcp-method": message["method"]}
    key = _NAME_KEYS.get(message["method"])
    if key is not None:
        headers["mcp-name"] = encode_header(str(message["params"].get(key, "")))
    if message["method"] == "tools/call":
        params = message["params"]
        headers |= made(declared(params.get("name")), params.get("arguments"))
    return headers
