"""One request from its messages to its answer: does what `loop` decides.

Everything that it starts ends with it: cancelling `run` ends the model's answer and the tool calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mcpcp.chat import results
from mcpcp.chat.deltas import Answer
from mcpcp.chat.llm import Llm
from mcpcp.chat.loop import Ask, Call, Finish, Message, Mistake, ToolCall, begin, next_step
from mcpcp.chat.mcpclient import McpClient, ignore
from mcpcp.chat.results import Outcome
from mcpcp.chat.spans import Telemetry
from mcpcp.chat.toolset import Toolset
from mcpcp.config import ChatConfig
from mcpcp.errors import DeadlineExceeded, McpcpError
from mcpcp.patience import patience

_USAGE: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True, slots=True)
class Record:
    """One tool call and what came of it; `duration` is seconds, `result` None where it failed.

    `attachments` are what the tool returned beside text: content blocks of MCP's form.
    """

    id: str
    name: str
    arguments: Message
    result: str | None = None
    error: str | None = None
    duration: float = 0.0
    attachments: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the model's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Started:
    """A tool call begins; its record has no end yet."""

    record: Record


@dataclass(frozen=True, slots=True)
class Progress:
    """What a tool says of its progress: MCP's `progress`, `total` and `message`."""

    record: Record
    params: Message


@dataclass(frozen=True, slots=True)
class Finished:
    """A tool call has ended."""

    record: Record


Event = Token | Started | Progress | Finished
Emit = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller wants; `options` go to the model as they are."""

    messages: Sequence[Message]
    model: str | None = None
    max_turns: int | None = None
    options: Message = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """The answer, the calls that it rests on, in their order, and the tokens of all its turns."""

    message: Message
    records: tuple[Record, ...]
    usage: Mapping[str, int]
    model: str
    finish: str


class Runner:
    """Answers requests; holds nothing between them."""

    def __init__(
        self, llm: Llm, gateway: McpClient, config: ChatConfig, telemetry: Telemetry
    ) -> None:
        self._spans = telemetry.spans
        self._llm = llm
        self._gateway = gateway
        self._config = config
        self._metrics = telemetry.metrics

    async def run(self, request: Request, token: str, emit: Emit) -> Result:
        """Answer with the tools of the caller's `token`; raises McpcpError."""
        limit = self._config.timeout
        try:
            async with patience(limit):
                definitions = await self._gateway.tools(token)
                tools = {str(d.get("name")): d for d in definitions}
                return await _Run(self, request, token, tools, emit).answer()
        except TimeoutError:
            text = f"no answer within {limit:g} s: ask for less, or raise chat.timeout"
            raise DeadlineExceeded(text) from None

    async def execute(self, token: str, name: str, arguments: Message) -> Record | None:
        """Call one tool without a model; None where the token allows no such tool."""
        definitions = await self._gateway.tools(token)
        tool = next((d for d in definitions if d.get("name") == name), None)
        if tool is None:
            return None
        return await self.call(token, tool, Record("call_0", name, arguments))

    async def ask(self, ask: Ask, request: Request, emit: Emit) -> Answer:
        """The model's next answer."""

        async def on_text(text: str) -> None:
            await emit(Token(text))

        with self._spans.model(request.model or self.model):
            return await self._llm.ask(ask, request.model, request.options, on_text)

    async def call(
        self, token: str, tool: Message, record: Record, emit: Emit | None = None
    ) -> Record:
        """The record with the call's end; a failure is one too."""

        async def on_progress(params: Message) -> None:
            if emit is not None:
                await emit(Progress(record, params))

        began = time.monotonic()
        timeout = self._config.call_timeout
        with self._spans.tool(record.name) as mark:
            try:
                watch = ignore if emit is None else on_progress
                result = await self._gateway.call(token, tool, record.arguments, timeout, watch)
                outcome = results.of(result)
            except McpcpError as error:
                outcome = Outcome(str(error), failed=True)
            if outcome.failed:
                mark.fail("error")
        duration = time.monotonic() - began
        self._metrics.called("error" if outcome.failed else "ok", duration)
        return _ended(record, outcome, duration)

    def count_mistake(self) -> None:
        """Count a call that could not be made."""
        self._metrics.called("mistake", 0.0)

    @property
    def limits(self) -> ChatConfig:
        """What a request is held to."""
        return self._config

    @property
    def model(self) -> str:
        """The model that is asked where a request names none."""
        return self._llm.settings.model


class _Run:
    """One request under way."""

    def __init__(
        self,
        runner: Runner,
        request: Request,
        token: str,
        definitions: Mapping[str, Message],
        emit: Emit,
    ) -> None:
        self._runner = runner
        self._request = request
        self._token = token
        self._definitions = definitions
        self._tools = Toolset.of(definitions.values())
        self._emit = emit
        self._records: list[Record] = []
        self._usage = dict.fromkeys(_USAGE, 0)
        self._gate = asyncio.Semaphore(runner.limits.parallel)

    async def answer(self) -> Result:
        limits = self._runner.limits
        max_turns = min(self._request.max_turns or limits.max_turns, limits.max_turns)
        conversation = begin(self._request.messages, limits.instructions, self._tools)
        calls: tuple[ToolCall, ...] = ()
        finish = "stop"
        while True:
            step = next_step(conversation, calls, self._tools, max_turns)
            if isinstance(step, Finish):
                return self._result(step.message, finish)
            if isinstance(step, Ask):
                answer = await self._runner.ask(step, self._request, self._emit)
                for name, count in answer.usage.items():
                    self._usage[name] += count
                calls = answer.calls if step.tools else ()  # what it can't have, it may still want
                finish = answer.finish or "stop"
                conversation = conversation.answered(answer.text, calls)
                continue
            for record in await self._call_all(step.calls):
                text = f"Error: {record.error}" if record.error is not None else record.result or ""
                conversation = conversation.told(record.id, record.name, text, limits.result_size)
            calls = ()

    async def _call_all(self, calls: Sequence[Call | Mistake]) -> list[Record]:
        """All of them at once, as far as `parallel` allows; the records in the calls' order."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._call(call)) for call in calls]
        records = [task.result() for task in running]
        self._records += records
        return records

    async def _call(self, call: Call | Mistake) -> Record:
        async with self._gate:
            record = Record(call.id, call.tool, call.arguments)
            await self._emit(Started(record))
            if isinstance(call, Mistake):
                record = replace(record, error=call.text)
                self._runner.count_mistake()
            else:
                tool = self._definitions[call.tool]
                record = await self._runner.call(self._token, tool, record, self._emit)
            await self._emit(Finished(record))
            return record

    def _result(self, message: Message, finish: str) -> Result:
        model = self._request.model or self._runner.model
        finish = finish if finish in ("length", "content_filter") else "stop"
        return Result(message, tuple(self._records), self._usage, model, finish)


def _ended(record: Record, outcome: Outcome, duration: float) -> Record:
    text = results.truncated(outcome.text, results.LARGEST_SHOWN)
    return replace(
        record,
        result=None if outcome.failed else text,
        error=text if outcome.failed else None,
        duration=duration,
        attachments=outcome.attachments,
    )
