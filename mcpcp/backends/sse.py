"""HTTP+SSE: one event stream that answers come on, one POST a message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit

from mcpcp.backends.addresses import Addresses
from mcpcp.backends.events import follow
from mcpcp.backends.http import HttpClient
from mcpcp.backends.transports import LOST, PING, Fail, Receive, refusal
from mcpcp.errors import McpcpError, ProtocolError, Unavailable
from mcpcp.jsonrpc import Message, RpcError, decode_reply, encode

logger = logging.getLogger(__name__)

ENDPOINT_TIMEOUT: Final = 10.0
_POST_HEADERS: Final = {"content-type": "application/json"}


class SseTransport:
    """A session of an SSE server: it lives exactly as long as its event stream."""

    def __init__(
        self, url: str, headers: Mapping[str, str], addresses: Addresses | None = None
    ) -> None:
        self._url = url
        self._client = HttpClient(url, headers, addresses)
        self._post_head: bytes | None = None
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()

    async def run(self, ready: Callable[[], None], receive: Receive, fail: Fail) -> None:
        """See BackendTransport."""
        ended: McpcpError | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(self._send_outbox())
                try:
                    await self._read(ready, receive)
                except McpcpError as error:
                    ended = error
                sender.cancel()
        finally:
            self._client.close()
        if ended is not None:
            raise ended

    async def send(self, message: Message) -> None:
        """See BackendTransport; the server's answer to the POST itself says little: 202."""
        if self._post_head is None:
            raise Unavailable("the server is not connected")
        status = await self._post(self._post_head, message)
        if status == 404 or (status in LOST and await self._post(self._post_head, PING) in LOST):
            self._client.close()  # the stream is of no use without its session
            raise Unavailable("the server forgot the session")
        if status >= 300:
            raise refusal(status)

    async def _post(self, head: bytes, message: Message) -> int:
        """The status with which the server takes a message."""
        answer = await self._client.send(head, encode(message))
        await answer.read()
        return answer.head.status

    def send_soon(self, message: Message) -> None:
        """See BackendTransport."""
        self._outbox.put_nowait(message)

    def abandon(self, request_id: int) -> None:
        """Nothing to do: answers share one stream."""

    def negotiated(self, version: str) -> None:
        """Nothing depends on the version here."""

    async def _send_outbox(self) -> None:
        while True:
            message = await self._outbox.get()
            try:
                await self.send(message)
            except McpcpError as error:
                logger.info("a notification was not delivered: %s", error)

    async def _read(self, ready: Callable[[], None], receive: Receive) -> None:
        parts = urlsplit(self._url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

        def take(event: str, data: bytes) -> None:
            if event == "message" and data:
                self._receive(data, receive)
            elif event == "endpoint":
                endpoint = self._same_origin(data.decode())
                self._post_head = self._client.head("POST", endpoint, _POST_HEADERS)
                opening.reschedule(None)
                ready()

        async with asyncio.timeout(ENDPOINT_TIMEOUT) as opening:
            try:
                accept = {"accept": "text/event-stream"}
                answer = await self._client.request("GET", target, accept, lasting=True)
                if answer.head.status != 200:
                    answer.close()
                    raise Unavailable(f"{self._url} answered HTTP {answer.head.status}")
                self._client.stay_with(answer)  # the session is there
                await follow(answer, take)
            except TimeoutError:
                raise Unavailable(f"{self._url} did not open an event stream") from None

    def _receive(self, data: bytes, receive: Receive) -> None:
        try:
            receive(decode_reply(data))
        except RpcError as error:
            logger.warning("ignored an event that is no JSON: %s", error)

    def _same_origin(self, endpoint: str) -> str:
        """The target of the POSTs; another origin would be sent our headers, so it is refused."""
        url = urlsplit(urljoin(self._url, endpoint))
        mine = urlsplit(self._url)
        if (url.scheme, url.netloc) != (mine.scheme, mine.netloc):
            raise ProtocolError(f"the server names an endpoint of another origin: {endpoint:.200}")
        return url.path + (f"?{url.query}" if url.query else "")
