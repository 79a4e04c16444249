"""The methods of the protocol, each in a few lines: what is named is found, allowed and forwarded.

Above: the frontends, which bring each request with its caller. Below: `gateway`, whose `authorize`
and `forward` are the way of every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from mcpcp import listing, search
from mcpcp.backends.backend import Backend
from mcpcp.backends.connection import Hello
from mcpcp.callers import Caller
from mcpcp.catalog import Entry, Kind
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Message, Notify, RpcError
from mcpcp.names import ToolName
from mcpcp.peer import Back

LOG_LEVELS: Final = frozenset(
    {"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}
)

Method = Callable[[Gateway, Caller, Message, Back], Coroutine[Any, Any, Any]]


async def call_tool(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """Call a tool."""
    if gateway.config.searches(caller.agent.name):
        if params.get("name") == search.FIND:
            await gateway.prepare(caller)
            index = gateway.view(caller.agent, caller.profile).index
            result = search.answer(index, params.get("arguments"))
            return listing.in_era(result, "tools/call", caller.modern)
        params = _meant(params)
    entry = await gateway.authorize(caller, "tool", params.get("name"))
    named = {**params, "name": entry.name.tool}
    return await gateway.forward(caller, entry, "tools/call", named, back)


def _meant(params: Message) -> Message:
    """In search mode: the call that a call of `call_tool` means; any other as it is."""
    if params.get("name") != search.CALL:
        return params
    try:
        name, arguments = search.target(params.get("arguments"))
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, str(error)) from None
    return {**params, "name": name, "arguments": arguments}


async def get_prompt(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """Get a prompt."""
    entry = await gateway.authorize(caller, "prompt", params.get("name"))
    named = {**params, "name": entry.name.tool}
    return await gateway.forward(caller, entry, "prompts/get", named, back)


async def read_resource(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """Read a resource."""
    entry = await gateway.authorize(caller, "resource", params.get("uri"))
    named = {**params, "uri": _own_uri(entry, params["uri"])}
    return await gateway.forward(caller, entry, "resources/read", named, back)


def _own_uri(entry: Entry, uri: str) -> str:
    """`uri` as the server itself writes it."""
    prefix = entry.exposed.removesuffix(entry.name.tool)
    return uri.removeprefix(prefix) if entry.kind in ("resource", "template") else uri


async def subscribe(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """Follow a resource, on the client's own session or on a connection that others share."""
    entry = await gateway.authorize(caller, "resource", params.get("uri"))
    backend, uri = gateway.registry.backend(entry.name.server), _own_uri(entry, params["uri"])
    if caller.session is None:
        raise RpcError(METHOD_NOT_FOUND, "a subscription needs a session")
    if not backend.has_sessions:
        await caller.session.subscribe(backend, uri)
        return {}
    method = "resources/subscribe"
    result = await gateway.forward(caller, entry, method, {**params, "uri": uri}, back)
    caller.session.link(backend).subscriptions.add(uri)
    return result


async def unsubscribe(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """The reverse of `subscribe`."""
    entry = await gateway.authorize(caller, "resource", params.get("uri"))
    backend, uri = gateway.registry.backend(entry.name.server), _own_uri(entry, params["uri"])
    if caller.session is None:
        raise RpcError(METHOD_NOT_FOUND, "a subscription needs a session")
    if not backend.has_sessions:
        caller.session.unsubscribe(backend, uri)
        return {}
    caller.session.link(backend).subscriptions.discard(uri)
    method = "resources/unsubscribe"
    return await gateway.forward(caller, entry, method, {**params, "uri": uri}, back)


async def follow_resource(
    gateway: Gateway, caller: Caller, uri: str, told: Notify
) -> Callable[[], None]:
    """Have `told` called with each update of a resource; returns what ends that."""
    entry = await gateway.authorize(caller, "resource", uri)
    server = entry.name.server
    return await gateway.registry.backend(server).follow_resource(
        _own_uri(entry, uri), lambda m: told(gateway.registry.catalog.rewritten(server, m))
    )


async def complete(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """Complete an argument of a prompt, or of a resource template."""
    ref = params.get("ref")
    if not isinstance(ref, dict):
        raise RpcError(INVALID_PARAMS, "params.ref must be an object")
    if ref.get("type") == "ref/prompt":
        entry = await gateway.authorize(caller, "prompt", ref.get("name"))
        own = {**ref, "name": entry.name.tool}
    else:
        entry = await _find_template(gateway, caller, ref.get("uri"))
        own = {**ref, "uri": entry.name.tool}
    named = {**params, "ref": own}
    return await gateway.forward(caller, entry, "completion/complete", named, back)


async def _find_template(gateway: Gateway, caller: Caller, uri: Any) -> Entry:
    await gateway.prepare(caller, templates=True)
    if isinstance(uri, str) and (entry := gateway.view(caller.agent).find("template", uri)):
        return entry
    return await gateway.authorize(caller, "resource", uri)


async def set_level(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """Set the log level, for the servers in use and for those that will be."""
    level = params.get("level")
    if level not in LOG_LEVELS:
        raise RpcError(INVALID_PARAMS, f"params.level must be one of {sorted(LOG_LEVELS)}")
    known = "logging" in gateway.view(caller.agent).capabilities
    if caller.session is None or not (known or gateway.registry.expecting(caller.agent.allow)):
        raise RpcError(METHOD_NOT_FOUND, "Method not found: logging/setLevel")
    caller.session.log_level = level
    lines = [link.line for link in caller.session.open_links()]
    for backend in _sharing_loggers(gateway, caller):
        backend.log_level = level
        lines.append(backend.line)
    requests = (line.request("logging/setLevel", params) for line in lines if line.connection)
    await asyncio.gather(*requests, return_exceptions=True)
    return {}


def _sharing_loggers(gateway: Gateway, caller: Caller) -> list[Backend]:
    catalog = gateway.registry.catalog
    names = (s for s in gateway.view(caller.agent).servers if "logging" in catalog.capabilities[s])
    return [b for b in map(gateway.registry.backend, names) if not b.has_sessions]


async def _pass_on(
    gateway: Gateway, caller: Caller, method: str, params: Message, back: Back
) -> Any:
    """A method that we do not know: a question for the agent's server, if it has but one.

    What it asks for we can't judge, so the agent must be granted everything of that server.
    """
    view = gateway.view(caller.agent)
    whole = len(view.servers) == 1 and caller.agent.allow.grants_all(view.servers[0])
    if not whole or method in METHODS[not caller.modern]:
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")
    entry = Entry("tool", ToolName(view.servers[0], method), method, {})
    return await gateway.forward(caller, entry, method, params, back)


async def _list(gateway: Gateway, caller: Caller, kind: Kind, params: Message) -> Any:
    await gateway.prepare(caller, templates=kind == "template")
    catalog = gateway.registry.catalog
    view = catalog.view(caller.agent.allow, caller.profile)
    if caller.session is not None and caller.session.shown is not None:
        caller.session.shown.saw(view, kind)
    result = listing.page(view, kind, params.get("cursor"), catalog.version)
    return listing.cacheable(result) if caller.modern else result


async def list_tools(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """The tools of the agent's view; in search mode the two that find and call them."""
    if gateway.config.searches(caller.agent.name):
        result: Message = {"tools": list(search.DEFINITIONS)}
        return listing.cacheable(result) if caller.modern else result
    return await _list(gateway, caller, "tool", params)


async def list_prompts(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """The prompts of the agent's view."""
    return await _list(gateway, caller, "prompt", params)


async def list_resources(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """The resources of the agent's view."""
    return await _list(gateway, caller, "resource", params)


async def list_templates(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """The resource templates of the agent's view."""
    return await _list(gateway, caller, "template", params)


async def initialize(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """The legacy handshake; how the client introduces itself is how we will, in its name."""
    expecting = gateway.registry.expecting(caller.agent.allow)
    result = listing.legacy_hello(gateway.view(caller.agent), params, expecting=expecting)
    if caller.session is not None:
        version = result["protocolVersion"]
        caller.session.introduce(Hello.of({**params, "protocolVersion": version}))
    return result


async def discover(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """The modern handshake."""
    expecting = gateway.registry.expecting(caller.agent.allow)
    return listing.modern_hello(gateway.view(caller.agent), expecting=expecting)


async def ping(gateway: Gateway, caller: Caller, params: Message, back: Back) -> Any:
    """Still here."""
    return {"resultType": "complete"} if caller.modern else {}


_BOTH: Final[dict[str, Method]] = {
    "tools/call": call_tool,
    "tools/list": list_tools,
    "prompts/get": get_prompt,
    "prompts/list": list_prompts,
    "resources/list": list_resources,
    "resources/templates/list": list_templates,
    "resources/read": read_resource,
    "completion/complete": complete,
}
METHODS: Final[dict[bool, dict[str, Method]]] = {
    True: {**_BOTH, "server/discover": discover},
    False: {
        **_BOTH,
        "initialize": initialize,
        "ping": ping,
        "resources/subscribe": subscribe,
        "resources/unsubscribe": unsubscribe,
        "logging/setLevel": set_level,
    },
}
"""The methods that we know, of the modern era and of the legacy one."""


def dispatch(
    gateway: Gateway, caller: Caller, message: Message, back: Back
) -> Coroutine[Any, Any, Any]:
    """What awaits the result of one request; what comes on the way to it goes `back`.

    Raises RpcError and every other McpcpError: the frontends make answers of them.
    """
    params = message.get("params")
    if params is None:
        params = {}
    elif not isinstance(params, dict):
        raise RpcError(INVALID_PARAMS, "params must be an object")
    if not isinstance(params.get("_meta"), dict | None):
        raise RpcError(INVALID_PARAMS, "params._meta must be an object")
    method = METHODS[caller.modern].get(message["method"])
    if method is None:
        return _pass_on(gateway, caller, message["method"], params, back)
    return method(gateway, caller, params, back)
