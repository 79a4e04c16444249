"""The everything-server: all that MCP has, in both eras, over every transport.

It has what the server scenarios of `@modelcontextprotocol/conformance` ask for by name, and the
few things beyond them that a gateway can get wrong (pages, real changes of lists, updates of
subscribed resources). On the SDK's low-level server, so that what is on the wire is what is
written here.

`--transport http` and `--transport sse` serve the same: /mcp, /sse and /health on one port.
`--page N` hands lists out in pages of N.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio
import mcp_types as types
import uvicorn
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.session import ServerSession
from mcp.server.sse import SseServerTransport
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

Context = ServerRequestContext[Any, Any]
Result = types.CallToolResult | types.InputRequiredResult
ToolFunction = Callable[[Context, types.CallToolRequestParams], Awaitable[Result]]
Item = TypeVar("Item")

NAME = "everything"
IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
AUDIO = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA=="
PAUSE = 0.05
"""Seconds between two notifications, as the scenarios want."""

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
RESOURCE_NOT_FOUND = -32002
"""What the legacy revisions answer for a resource that is not there."""


class Changing:
    """What changes while the server runs."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self.tools = 0
        self.prompts = 0
        self.subscribers: dict[str, set[ServerSession]] = {}


STATE = Changing()
TOOLS: dict[str, tuple[types.Tool, ToolFunction]] = {}


def tool(
    name: str, description: str, schema: dict[str, Any] | None = None, **more: Any
) -> Callable[[ToolFunction], ToolFunction]:
    """Register a tool under its wire name."""

    def register(function: ToolFunction) -> ToolFunction:
        definition = types.Tool(
            name=name, description=description, input_schema=schema or NO_ARGUMENTS, **more
        )
        TOOLS[name] = (definition, function)
        return function

    return register


def takes(**properties: dict[str, Any]) -> dict[str, Any]:
    """A schema in which every property is required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def say(*content: str | types.ContentBlock, **more: Any) -> types.CallToolResult:
    blocks = [types.TextContent(text=c) if isinstance(c, str) else c for c in content]
    return types.CallToolResult(content=blocks, **more)


def is_modern(ctx: Context) -> bool:
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


# Tools: content


@tool("test_simple_text", "Returns text")
async def simple_text(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return say("This is a simple text response for testing.")


@tool("test_image_content", "Returns an image")
async def image_content(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return say(types.ImageContent(data=IMAGE, mime_type="image/png"))


@tool("test_audio_content", "Returns audio")
async def audio_content(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return say(types.AudioContent(data=AUDIO, mime_type="audio/wav"))


def embedded(uri: str, text: str, mime_type: str = "text/plain") -> types.EmbeddedResource:
    return types.EmbeddedResource(
        resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    )


@tool("test_embedded_resource", "Returns an embedded resource")
async def embedded_resource(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return say(embedded("test://embedded-resource", "This is an embedded resource content."))


@tool("test_multiple_content_types", "Returns text, an image and an embedded resource")
async def multiple_content_types(ctx: Context, params: types.CallToolRequestParams) -> Result:
    data = json.dumps({"test": "data", "value": 123})
    return say(
        "Multiple content types test:",
        types.ImageContent(data=IMAGE, mime_type="image/png"),
        embedded("test://mixed-content-resource", data, "application/json"),
    )


@tool("test_resource_link", "Returns a link to a resource of this server")
async def resource_link(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return say(types.ResourceLink(uri="test://static-text", name="static-text"))


@tool(
    "test_structured",
    "Returns structured content, `_meta` and annotations",
    takes(value={"type": "integer"}),
    output_schema=takes(doubled={"type": "integer"}),
    annotations=types.ToolAnnotations(read_only_hint=True, idempotent_hint=True),
    title="Structured",
    _meta={"test/kept": {"nested": [1, None]}},
)
async def structured(ctx: Context, params: types.CallToolRequestParams) -> Result:
    doubled = {"doubled": 2 * (params.arguments or {})["value"]}
    return say(json.dumps(doubled), structured_content=doubled, _meta={"test/kept": True})


@tool("test_error_handling", "Always fails")
async def error_handling(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return say("This tool intentionally returns an error for testing", is_error=True)


SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@tool("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", SCHEMA_2020_12)
async def json_schema(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return say(json.dumps(params.arguments))


# Tools: notifications on the way to the answer


@tool("test_tool_with_logging", "Logs while it runs")
async def with_logging(ctx: Context, params: types.CallToolRequestParams) -> Result:
    await log(ctx, "Tool execution started")
    await anyio.sleep(PAUSE)
    await log(ctx, "Tool processing data")
    await anyio.sleep(PAUSE)
    await log(ctx, "Tool execution completed")
    return say("Tool with logging executed successfully")


@tool("test_logging_tool", "Logs once")
async def logging_tool(ctx: Context, params: types.CallToolRequestParams) -> Result:
    await log(ctx, "A log message")
    return say("logged")


async def log(ctx: Context, text: str) -> None:
    await ctx.session.send_log_message("info", text, NAME, related_request_id=ctx.request_id)


@tool("test_tool_with_progress", "Reports progress while it runs")
async def with_progress(ctx: Context, params: types.CallToolRequestParams) -> Result:
    for done in (0, 50, 100):
        await ctx.session.report_progress(done, 100, f"Completed step {done} of 100")
        await anyio.sleep(PAUSE)
    return say("Tool with progress executed successfully")


@tool("test_reconnection", "Closes the stream of its own answer, which the client then fetches")
async def reconnection(ctx: Context, params: types.CallToolRequestParams) -> Result:
    if ctx.close_sse_stream is not None:
        await anyio.sleep(PAUSE)  # for the stream's first event, which names it, to get out
        await ctx.close_sse_stream()
        await anyio.sleep(2 * PAUSE)
    return say("Reconnection test completed successfully")


# Tools: what the legacy server asks its client in mid-call


@tool("test_sampling", "Asks the client's model", takes(prompt={"type": "string"}))
async def sampling(ctx: Context, params: types.CallToolRequestParams) -> Result:
    prompt = types.TextContent(text=(params.arguments or {})["prompt"])
    answer = await ctx.session.create_message(
        [types.SamplingMessage(role="user", content=prompt)],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    text = answer.content.text if isinstance(answer.content, types.TextContent) else "no text"
    return say(f"LLM response: {text}")


@tool("test_list_roots", "Asks for the client's roots")
async def list_roots(ctx: Context, params: types.CallToolRequestParams) -> Result:
    roots = await ctx.session.list_roots()
    return say(" ".join(str(root.uri) for root in roots.roots))


async def elicit(
    ctx: Context, message: str, properties: dict[str, Any], required: Sequence[str] = ()
) -> types.ElicitResult:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return await ctx.session.elicit_form(message, schema, ctx.request_id)


@tool("test_elicitation", "Asks the user", takes(message={"type": "string"}))
async def elicitation(ctx: Context, params: types.CallToolRequestParams) -> Result:
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    message = (params.arguments or {})["message"]
    answer = await elicit(ctx, message, properties, tuple(properties))
    content = json.dumps(answer.content or {})
    return say(f"User response: action={answer.action}, content={content}")


@tool("test_elicitation_sep1034_defaults", "Asks the user, with defaults of every kind")
async def elicitation_defaults(ctx: Context, params: types.CallToolRequestParams) -> Result:
    statuses = ["active", "inactive", "pending"]
    properties = {
        "name": {"type": "string", "description": "User name", "default": "John Doe"},
        "age": {"type": "integer", "description": "User age", "default": 30},
        "score": {"type": "number", "description": "User score", "default": 95.5},
        "status": {"type": "string", "enum": statuses, "default": "active"},
        "verified": {"type": "boolean", "description": "Verification status", "default": True},
    }
    return elicited(await elicit(ctx, "Please review and update the form fields", properties))


def titled(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in pairs]


@tool("test_elicitation_sep1330_enums", "Asks the user, with choices of every kind")
async def elicitation_enums(ctx: Context, params: types.CallToolRequestParams) -> Result:
    options = ["option1", "option2", "option3"]
    firsts = titled(("value1", "First Option"), ("value2", "Second Option"))
    legacy = ["opt1", "opt2", "opt3"]
    names = ["Option One", "Option Two", "Option Three"]
    properties = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": firsts},
        "legacyEnum": {"type": "string", "enum": legacy, "enumNames": names},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": firsts}},
    }
    return elicited(await elicit(ctx, "Please choose", properties))


@tool("test_elicitation_url", "Sends the user to a page", takes(url={"type": "string"}))
async def elicitation_url(ctx: Context, params: types.CallToolRequestParams) -> Result:
    url = (params.arguments or {})["url"]
    answer = await ctx.session.elicit_url("Please confirm there", url, "e-1", ctx.request_id)
    await ctx.session.send_elicit_complete("e-1", ctx.request_id)
    return elicited(answer)


def elicited(answer: types.ElicitResult) -> types.CallToolResult:
    content = json.dumps(answer.content or {})
    return say(f"Elicitation completed: action={answer.action}, content={content}")


# Tools: what the modern server asks its client, in rounds


def form(message: str, **properties: str) -> types.ElicitRequest:
    """An elicitation of required properties, given by their JSON types."""
    schema = takes(**{name: {"type": kind} for name, kind in properties.items()})
    return types.ElicitRequest(
        params=types.ElicitRequestFormParams(message=message, requested_schema=schema)
    )


def sample(text: str, max_tokens: int) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=text))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


def ask(state: str | None = None, /, **requests: types.InputRequest) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=requests, request_state=state)


def answer_of(params: types.InputResponseRequestParams, key: str, kind: type[Item]) -> Item | None:
    """The client's answer to one request, where it has given one of the right kind."""
    answer = (params.input_responses or {}).get(key)
    return answer if isinstance(answer, kind) else None


def form_of(params: types.InputResponseRequestParams, key: str, name: str) -> Any:
    """One value of a form that the user has filled in; None where there is none."""
    answer = answer_of(params, key, types.ElicitResult)
    return (answer.content or {}).get(name) if answer and answer.action == "accept" else None


NAME_FORM = form("What is your name?", name="string")


@tool("test_input_required_result_elicitation", "Asks the user in a round of its own")
async def round_elicitation(ctx: Context, params: types.CallToolRequestParams) -> Result:
    name = form_of(params, "user_name", "name")
    return say(f"Hello, {name}!") if name else ask(user_name=NAME_FORM)


@tool("test_input_required_result_sampling", "Asks the client's model in a round of its own")
async def round_sampling(ctx: Context, params: types.CallToolRequestParams) -> Result:
    answer = answer_of(params, "capital_question", types.CreateMessageResult)
    if answer is None:
        return ask(capital_question=sample("What is the capital of France?", 100))
    return say(answer.content if isinstance(answer.content, types.TextContent) else "no text")


@tool("test_input_required_result_list_roots", "Asks for the client's roots in a round")
async def round_roots(ctx: Context, params: types.CallToolRequestParams) -> Result:
    answer = answer_of(params, "client_roots", types.ListRootsResult)
    if answer is None:
        return ask(client_roots=types.ListRootsRequest(params=types.RequestParams()))
    return say("Roots: " + " ".join(str(root.uri) for root in answer.roots))


CONFIRM = form("Please confirm", ok="boolean")


@tool("test_input_required_result_request_state", "Keeps state with the client")
async def round_state(ctx: Context, params: types.CallToolRequestParams) -> Result:
    if params.request_state != "confirming" or form_of(params, "confirm", "ok") is None:
        return ask("confirming", confirm=CONFIRM)
    return say("state-ok")


@tool("test_input_required_result_tampered_state", "Keeps state that nobody may change")
async def round_tampered(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return await round_state(ctx, params)


@tool("test_input_required_result_multiple_inputs", "Asks for three things at once")
async def round_multiple(ctx: Context, params: types.CallToolRequestParams) -> Result:
    name = form_of(params, "user_name", "name")
    greeting = answer_of(params, "greeting", types.CreateMessageResult)
    roots = answer_of(params, "client_roots", types.ListRootsResult)
    if params.request_state != "three" or not name or not greeting or not roots:
        return ask(
            "three",
            user_name=NAME_FORM,
            greeting=sample("Generate a greeting", 50),
            client_roots=types.ListRootsRequest(params=types.RequestParams()),
        )
    return say(f"{name} has {len(roots.roots)} roots")


@tool("test_input_required_result_multi_round", "Asks twice")
async def round_twice(ctx: Context, params: types.CallToolRequestParams) -> Result:
    state = json.loads(params.request_state or "{}")
    name = state.get("name") or form_of(params, "step1", "name")
    if not name:
        return ask("{}", step1=form("Step 1: What is your name?", name="string"))
    color = form_of(params, "step2", "color")
    if not color:
        second = form("Step 2: What is your favorite color?", color="string")
        return ask(json.dumps({"name": name}), step2=second)
    return say(f"{name} likes {color}")


@tool("test_input_required_result_capabilities", "Asks only what the client can answer")
async def round_capabilities(ctx: Context, params: types.CallToolRequestParams) -> Result:
    can = ctx.session.client_capabilities or types.ClientCapabilities()
    requests: types.InputRequests = {}
    if can.sampling is not None:
        requests["greeting"] = sample("Generate a greeting", 50)
    if can.elicitation is not None:
        requests["user_name"] = NAME_FORM
    if params.input_responses or not requests:
        return say("The client can answer " + (", ".join(requests) or "nothing"))
    return ask(**requests)


@tool("test_missing_capability", "Needs a client that can sample")
async def missing_capability(ctx: Context, params: types.CallToolRequestParams) -> Result:
    if (ctx.session.client_capabilities or types.ClientCapabilities()).sampling is not None:
        return say("The client can sample")
    needed: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
    code = types.MISSING_REQUIRED_CLIENT_CAPABILITY
    raise MCPError(code, "This tool needs a client that can sample", needed)


@tool("test_streaming_elicitation", "Reports progress, then asks the user in a round")
async def streaming_elicitation(ctx: Context, params: types.CallToolRequestParams) -> Result:
    await ctx.session.report_progress(0, 1)
    return await round_elicitation(ctx, params)


# Tools: headers that mirror arguments


MIRRORED = takes(
    region={"type": "string", "x-mcp-header": "Region"},
    query={"type": "string"},
)


@tool("test_x_mcp_header", "Wants an argument in a header too", MIRRORED)
async def mirrored(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return say(json.dumps(params.arguments))


# Tools: changes


def generation() -> types.Tool:
    """A tool that has another name after each change of the list."""
    name = f"test_generation_{STATE.tools}"
    return types.Tool(name=name, description="Here until the change", input_schema=NO_ARGUMENTS)


@tool("test_trigger_tool_change", "Changes the list of tools")
async def trigger_tool_change(ctx: Context, params: types.CallToolRequestParams) -> Result:
    STATE.tools += 1
    await STATE.bus.publish(ToolsListChanged())
    if not is_modern(ctx):
        await ctx.session.send_tool_list_changed()
    return say("changed")


@tool("test_trigger_prompt_change", "Changes the list of prompts")
async def trigger_prompt_change(ctx: Context, params: types.CallToolRequestParams) -> Result:
    STATE.prompts += 1
    await STATE.bus.publish(PromptsListChanged())
    if not is_modern(ctx):
        await ctx.session.send_prompt_list_changed()
    return say("changed")


@tool("test_trigger_resource_update", "Says that a resource changed", takes(uri={"type": "string"}))
async def trigger_resource_update(ctx: Context, params: types.CallToolRequestParams) -> Result:
    uri = (params.arguments or {})["uri"]
    await STATE.bus.publish(ResourceUpdated(uri))
    for session in list(STATE.subscribers.get(uri, ())):
        await session.send_resource_updated(uri)
    return say("updated")


# Resources

STATIC_TEXT = "This is the content of the static text resource."
TEMPLATE_START, TEMPLATE_END = "test://template/", "/data"
RESOURCES = [
    types.Resource(uri=f"test://{name}", name=name, description=text, mime_type=kind)
    for name, text, kind in (
        ("static-text", "A text that never changes", "text/plain"),
        ("static-binary", "An image that never changes", "image/png"),
        ("watched-resource", "A text that says when it changes", "text/plain"),
        ("example-resource", "What the embedding prompt embeds", "text/plain"),
    )
]
TEMPLATES = [
    types.ResourceTemplate(
        uri_template=f"{TEMPLATE_START}{{id}}{TEMPLATE_END}",
        name="template",
        description="Data for an id",
        mime_type="application/json",
    )
]


def contents(uri: str) -> types.TextResourceContents | types.BlobResourceContents | None:
    """What is at `uri`; None where nothing is."""
    if uri == "test://static-binary":
        return types.BlobResourceContents(uri=uri, mime_type="image/png", blob=IMAGE)
    if uri.startswith(TEMPLATE_START) and uri.endswith(TEMPLATE_END):
        id_ = uri.removeprefix(TEMPLATE_START).removesuffix(TEMPLATE_END)
        data = {"id": id_, "templateTest": True, "data": f"Data for ID: {id_}"}
        return types.TextResourceContents(
            uri=uri, mime_type="application/json", text=json.dumps(data)
        )
    texts = {
        "test://static-text": STATIC_TEXT,
        "test://watched-resource": "Watched resource content",
        "test://example-resource": "Example resource content",
    }
    text = texts.get(uri)
    if text is None:
        return None
    return types.TextResourceContents(uri=uri, mime_type="text/plain", text=text)


async def read_resource(
    ctx: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    uri = str(params.uri)
    found = contents(uri)
    if found is None:
        code = types.INVALID_PARAMS if is_modern(ctx) else RESOURCE_NOT_FOUND
        raise MCPError(code, "Resource not found", {"uri": uri})
    return types.ReadResourceResult(contents=[found])


async def subscribe(ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    STATE.subscribers.setdefault(str(params.uri), set()).add(ctx.session)
    return types.EmptyResult()


async def unsubscribe(ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    STATE.subscribers.get(str(params.uri), set()).discard(ctx.session)
    return types.EmptyResult()


# Prompts


def argument(name: str, description: str) -> types.PromptArgument:
    return types.PromptArgument(name=name, description=description, required=True)


PROMPTS = [
    types.Prompt(name="test_simple_prompt", description="A prompt without arguments"),
    types.Prompt(
        name="test_prompt_with_arguments",
        description="A prompt with arguments",
        arguments=[argument("arg1", "First test argument"), argument("arg2", "Second one")],
    ),
    types.Prompt(
        name="test_prompt_with_embedded_resource",
        description="A prompt that embeds a resource",
        arguments=[argument("resourceUri", "URI of the resource to embed")],
    ),
    types.Prompt(name="test_prompt_with_image", description="A prompt with an image"),
    types.Prompt(name="test_input_required_result_prompt", description="Asks the user first"),
]


def prompts() -> list[types.Prompt]:
    """The fixed ones, and one that has another name after each change of the list."""
    name = f"test_prompt_generation_{STATE.prompts}"
    return [*PROMPTS, types.Prompt(name=name, description="Here until the change")]


def prompt_result(*blocks: types.ContentBlock) -> types.GetPromptResult:
    return types.GetPromptResult(
        messages=[types.PromptMessage(role="user", content=block) for block in blocks]
    )


async def get_prompt(
    ctx: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    if params.name not in {prompt.name for prompt in prompts()}:
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    given = params.arguments or {}
    if params.name == "test_input_required_result_prompt":
        context = form_of(params, "user_context", "context")
        if context is None:
            question = form("What context should the prompt use?", context="string")
            return ask(user_context=question)
        return prompt_result(types.TextContent(text=f"Use this context: {context}"))
    if params.name == "test_prompt_with_image":
        return prompt_result(
            types.ImageContent(data=IMAGE, mime_type="image/png"),
            types.TextContent(text="Please analyze the image above."),
        )
    if params.name == "test_prompt_with_embedded_resource":
        return prompt_result(
            embedded(given.get("resourceUri", ""), "Embedded resource content for testing."),
            types.TextContent(text="Please process the embedded resource above."),
        )
    if params.name == "test_prompt_with_arguments":
        first, second = given.get("arg1"), given.get("arg2")
        text = f"Prompt with arguments: arg1='{first}', arg2='{second}'"
        return prompt_result(types.TextContent(text=text))
    return prompt_result(types.TextContent(text="This is a simple prompt for testing."))


async def complete(ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    words = ("paris", "park", "party", "rome")
    values = [word for word in words if word.startswith(params.argument.value)]
    completion = types.Completion(values=values, total=len(values), has_more=False)
    return types.CompleteResult(completion=completion)


async def set_level(ctx: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


# The server


async def call_tool(ctx: Context, params: types.CallToolRequestParams) -> Result:
    if params.name in TOOLS:
        return await TOOLS[params.name][1](ctx, params)
    if params.name == generation().name:
        return say(params.name)
    raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")


def schema_of(name: str) -> dict[str, Any] | None:
    """For the SDK's check of `Mcp-Param-*` headers."""
    return TOOLS[name][0].input_schema if name in TOOLS else None


class EverythingServer(Server[dict[str, Any]]):
    """A Server whose legacy handshake says that its lists change, on every transport."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        changes = NotificationOptions(prompts_changed=True, tools_changed=True)
        return super().create_initialization_options(changes, experimental_capabilities, extensions)


def build(page: int) -> EverythingServer:
    """The server; its lists come in pages of `page` entries, 0 for one page."""

    def cut(items: list[Item], params: types.PaginatedRequestParams | None) -> tuple[Any, Any]:
        cursor = params.cursor if params else None
        if cursor is not None and not cursor.isdecimal():
            raise MCPError(types.INVALID_PARAMS, "Invalid cursor")
        start = int(cursor or 0)
        end = start + page if page else len(items)
        return items[start:end], str(end) if end < len(items) else None

    async def list_tools(
        ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        tools = [*(definition for definition, _ in TOOLS.values()), generation()]
        shown, cursor = cut(tools, params)
        return types.ListToolsResult(tools=shown, next_cursor=cursor)

    async def list_prompts(
        ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        shown, cursor = cut(prompts(), params)
        return types.ListPromptsResult(prompts=shown, next_cursor=cursor)

    async def list_resources(
        ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        shown, cursor = cut(RESOURCES, params)
        return types.ListResourcesResult(resources=shown, next_cursor=cursor)

    async def list_templates(
        ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        shown, cursor = cut(TEMPLATES, params)
        return types.ListResourceTemplatesResult(resource_templates=shown, next_cursor=cursor)

    server = EverythingServer(
        NAME,
        version="1.0",
        instructions="A server that has everything.",
        cache_hints={"tools/list": CacheHint(1000, "public")},
        get_tool_input_schema=schema_of,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_subscriptions_listen=ListenHandler(STATE.bus),
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
    )
    # Not by its constructor argument, which warns: the legacy revisions have it, and so do we.
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)
    security = RequestStateSecurity.ephemeral()
    server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
    return server


# Transports


class Events(EventStore):
    """Everything that was sent on any stream, so that a client can fetch what it missed."""

    def __init__(self) -> None:
        self._events: list[tuple[str, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events) - 1)

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        if not last_event_id.isdecimal() or int(last_event_id) >= len(self._events):
            return None
        last = int(last_event_id)
        stream = self._events[last][0]
        for number, (owner, message) in enumerate(self._events[last + 1 :], last + 1):
            if owner == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def application(server: EverythingServer) -> Starlette:
    """/mcp with resumable streams, /sse, and /health."""
    names = ["127.0.0.1:*", "localhost:*", "[::1]:*"]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=names,
        allowed_origins=[f"http://{name}" for name in names],
    )
    sse = SseServerTransport("/messages/", security_settings=security)

    async def serve_sse(request: Request) -> Response:
        streams = sse.connect_sse(request.scope, request.receive, request._send)
        async with streams as (read, write):
            await server.run(read, write, server.create_initialization_options())
        return Response()

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "name": NAME})

    app = server.streamable_http_app(
        event_store=Events(), retry_interval=50, transport_security=security
    )
    app.router.routes.extend(
        [
            Route("/sse", serve_sse, methods=["GET"]),
            Mount("/messages/", app=sse.handle_post_message),
            Route("/health", health),
        ]
    )
    return app


async def serve_stdio(server: EverythingServer) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def main() -> None:
    parser = argparse.ArgumentParser(description="A server that has everything.")
    parser.add_argument("--transport", choices=["stdio", "sse", "http"], default="stdio")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--page", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    server = build(options.page)
    if options.transport == "stdio":
        anyio.run(serve_stdio, server)
        return
    # h11, because httptools leaves the white space around header values for the SDK to trip over
    uvicorn.run(
        application(server),
        host=options.host,
        port=options.port,
        http="h11",
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
