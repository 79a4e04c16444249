"""The language model: any endpoint that speaks OpenAI's chat completions, over our own client."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from mcpcp.backends.addresses import addresses_of
from mcpcp.backends.events import events
from mcpcp.backends.http import Head, HttpClient, Response
from mcpcp.chat.deltas import Answer, Assembly, whole
from mcpcp.chat.loop import Ask
from mcpcp.chat.metrics import Metrics
from mcpcp.config.llm import LlmSettings
from mcpcp.errors import Interrupted, ModelError, ProtocolError, Unavailable
from mcpcp.jsonrpc import RpcError, decode, encode
from mcpcp.patience import patience

MOST_TRIES: Final = 3
LONGEST_PAUSE: Final = 10.0
"""Seconds that a `Retry-After` is waited for at most."""
LOOK_TIMEOUT: Final = 3.0
_FIRST_PAUSE: Final = 0.25
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed."""
_REASON: Final = 300

OnText = Callable[[str], Awaitable[None]]


class Llm:
    """One endpoint; `stall` is the seconds that it may be silent."""

    def __init__(self, settings: LlmSettings, stall: float, metrics: Metrics) -> None:
        self.settings = settings
        self._stall = stall
        self._metrics = metrics
        self._path = urlsplit(settings.base_url).path.rstrip("/")
        key = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        addresses = addresses_of(settings.base_url)
        self._client = HttpClient(settings.base_url, {"accept": "*/*", **key}, addresses)
        self._counts_usage = True

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    async def models(self) -> list[str]:
        """The models that the endpoint lists, none where it lists none; raises ModelError."""
        async with self._patience(LOOK_TIMEOUT):
            response = await self._client.request("GET", f"{self._path}/models", {})
            data = await response.read()
        if response.head.status == 404:  # it answers, and has no such list
            return []
        if response.head.status != 200:
            raise self._refused(response.head, self._clean(_reason(data)))
        body = _object(data)
        listed = body.get("data")
        entries = [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
        return [m["id"] for m in entries if isinstance(m.get("id"), str)]

    async def check(self) -> None:
        """Raise ModelError where the endpoint does not answer, or has not the model."""
        models = await self.models()
        if models and self.settings.model not in models:
            text = f"{self._where} has no model {self.settings.model}"
            raise ModelError("model_missing", f"{text}. {self.settings.advice_on_model}")

    async def ask(
        self, ask: Ask, model: str | None, options: dict[str, Any], on_text: OnText
    ) -> Answer:
        """The model's answer; its text goes to `on_text` as it comes. Raises ModelError.

        What fails before anything of the answer has come is tried again.
        """
        body = {"model": model or self.settings.model, "messages": list(ask.messages), **options}
        if ask.tools:
            body["tools"] = list(ask.tools)
        began = time.monotonic()
        try:
            answer = await self._persist(body, on_text)
            if answer.dropped and ask.tools:  # some can't stream tool calls: ask for all at once
                answer = await self._at_once(body, answer, on_text)
        except ModelError as error:
            self._metrics.asked(error.kind, time.monotonic() - began)
            raise
        self._metrics.asked("ok", time.monotonic() - began)
        self._metrics.used(answer.usage)
        return answer

    async def _persist(self, body: dict[str, Any], on_text: OnText) -> Answer:
        """Stream the answer; try again while nothing of it has come."""
        attempt = 1
        while True:
            assembly = Assembly()
            try:
                return await self._stream(body, assembly, on_text)
            except ModelError as error:
                if error.retry_after is None or assembly.begun or attempt == MOST_TRIES:
                    raise
                pause = max(error.retry_after, _backoff(attempt))
            await asyncio.sleep(pause)
            attempt += 1

    async def _stream(self, body: dict[str, Any], assembly: Assembly, on_text: OnText) -> Answer:
        wanted = {**body, "stream": True}
        if self._counts_usage:
            wanted["stream_options"] = {"include_usage": True}
        async with self._patience(self._stall):
            response = await self._send(wanted)
        with contextlib.closing(response):
            if response.head.content_type == b"application/json":  # it does not stream
                return await self._whole(response, on_text)
            async for chunk in self._chunks(response):
                text = assembly.take(chunk)
                if text:
                    await on_text(text)
        if assembly.finish is None:
            raise self._broken("it ended its answer in the middle", 0.0)
        return assembly.answer()

    async def _at_once(self, body: dict[str, Any], dropped: Answer, on_text: OnText) -> Answer:
        async def not_again(text: str) -> None:
            if not dropped.text:
                await on_text(text)

        async with self._patience(self._stall):
            response = await self._send({**body, "stream": False})
        with contextlib.closing(response):
            return await self._whole(response, not_again)

    async def _whole(self, response: Response, on_text: OnText) -> Answer:
        async with self._patience(self._stall):
            completion = _object(await response.read())
        self._check(completion)
        answer = whole(completion)
        if answer.text:
            await on_text(answer.text)
        return answer

    async def _chunks(self, response: Response) -> AsyncIterator[dict[str, Any]]:
        """The objects of a stream, to its end; a pause longer than `stall` ends it."""
        async with contextlib.aclosing(_data(response)) as stream:
            while True:
                async with self._patience(self._stall):
                    data = await anext(stream, None)
                if data is None:
                    return
                chunk = _object(data)
                self._check(chunk)
                yield chunk

    async def _send(self, body: dict[str, Any]) -> Response:
        """Ask for a completion; the answer where its status is 200, else ModelError."""
        target, headers = f"{self._path}/chat/completions", {"content-type": "application/json"}
        response = await self._client.request("POST", target, headers, encode(body))
        status = response.head.status
        if status == 200:
            return response
        reason = self._clean(_reason(await response.read()))
        if "stream_options" in body and _is_about_usage(status, reason):
            self._counts_usage = False
            return await self._send({k: v for k, v in body.items() if k != "stream_options"})
        raise self._refused(response.head, reason)

    @contextlib.asynccontextmanager
    async def _patience(self, seconds: float) -> AsyncIterator[None]:
        """A wait on the endpoint: its failures become errors that say where and what to do."""
        try:
            async with patience(seconds):
                yield
        except TimeoutError:
            raise ModelError("stalled", f"{self._where} was silent for {seconds:g} s") from None
        except Interrupted as error:
            raise self._broken(str(error), 0.0) from None
        except Unavailable as error:
            shown, advice = self.settings.shown_url, self.settings.advice
            text = f"no language model answers at {shown}: {error}. {advice}"
            raise ModelError("unreachable", text) from None
        except ProtocolError as error:
            raise self._broken(str(error)) from None

    def _check(self, chunk: dict[str, Any]) -> None:
        if chunk.get("error"):
            raise self._broken(self._clean(_message_of(chunk["error"])))

    @property
    def _where(self) -> str:
        return f"the language model at {self.settings.shown_url}"

    def _clean(self, text: str) -> str:
        """What others wrote, without our key, which some repeat."""
        return text.replace(self.settings.api_key, "***") if self.settings.has_secret else text

    def _broken(self, reason: str, retry_after: float | None = None) -> ModelError:
        return ModelError("broken", f"{self._where} failed: {reason}", retry_after)

    def _refused(self, head: Head, reason: str) -> ModelError:
        status = head.status
        if status in (401, 403):
            return ModelError("refused", f"{self._where} did not accept the key: set LLM_API_KEY")
        retry_after = _retry_after(head) if status in _PASSING else None
        if status == 429:
            text = f"{self._where} takes no more requests now: {reason}"
            return ModelError("rate_limited", text, retry_after)
        text = f"{self._where} answered HTTP {status}: {reason}"
        if status == 404:
            text += f". {self.settings.advice_on_model}"
        return ModelError("refused" if status < 500 else "broken", text, retry_after)


def _backoff(attempt: int) -> float:
    return float(_FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311  (no secret)


def _retry_after(head: Head) -> float:
    value = head.headers.get(b"retry-after", b"")
    return min(float(value), LONGEST_PAUSE) if value.isdigit() else 0.0


def _is_about_usage(status: int, reason: str) -> bool:
    """Whether an endpoint does not know the option by which it would count tokens."""
    return status in (400, 422) and "stream_options" in reason


async def _data(response: Response) -> AsyncGenerator[bytes]:
    """The data of each event, to `[DONE]` or the end of the stream."""
    async for _, data in events(response):
        if data.strip() == b"[DONE]":
            response.close()
            return
        if data.strip():
            yield data


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = decode(data)
    except RpcError:
        value = None
    if not isinstance(value, dict):
        raise ModelError("broken", "the language model answered something that is no JSON object")
    return value


def _reason(body: bytes) -> str:
    """What an error's body says, in one bounded line."""
    try:
        value = decode(body)
    except RpcError:
        value = body.decode("utf-8", "replace")
    return _message_of(value.get("error", value) if isinstance(value, dict) else value)


def _message_of(error: Any) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(text or "it gave no reason").split())[:_REASON]


def look(settings: LlmSettings) -> tuple[str, str] | None:
    """What is wrong with an endpoint and what can be done, from outside an event loop."""

    async def check() -> None:
        llm = Llm(settings, LOOK_TIMEOUT, Metrics())
        try:
            await llm.check()
        finally:
            llm.close()

    try:
        asyncio.run(check())
    except ModelError as error:
        text, advice = str(error), settings.advice
        return text.removesuffix(advice).rstrip(". "), advice
    return None
