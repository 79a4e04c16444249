"""`Mcp-Param-*`: arguments that modern HTTP clients mirror in headers, as a schema asks. Pure.

A property with `x-mcp-header: NAME` is also sent as the header `Mcp-Param-NAME`. Whoever reads the
headers must not be misled, so they are compared with the body, and made anew for the server.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

PREFIX: Final = "mcp-param-"
ANNOTATION: Final = "x-mcp-header"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL: Final = re.compile(r"-?[0-9]+(\.0+)?")
_TYPES: Final = ("string", "integer", "boolean")
_DEEPEST: Final = 20

Declared = Mapping[tuple[str, ...], str]
"""Which property, by its path, goes into which header, by its token."""
DeclaredBy = Callable[[Any], Declared]
"""What the tool of a name declares."""


def declared(schema: Any) -> Declared:
    """What an input schema declares; nothing where a declaration is not as it should be."""
    found: dict[tuple[str, ...], str] = {}
    for path, token, kind in _annotated(schema, ()):
        if not _TOKEN.fullmatch(str(token)) or kind not in _TYPES:
            return {}
        found[path] = str(token)
    tokens = [token.lower() for token in found.values()]
    return found if len(set(tokens)) == len(tokens) else {}


def _annotated(schema: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or len(path) > _DEEPEST:
        return
    for name, inner in properties.items():
        if isinstance(inner, dict):
            if ANNOTATION in inner:
                yield (*path, name), inner[ANNOTATION], inner.get("type")
            yield from _annotated(inner, (*path, name))


def made(declarations: Declared, arguments: Any) -> dict[str, str]:
    """The headers that mirror `arguments`."""
    headers = {}
    for path, token in declarations.items():
        text = _rendered(_at(arguments, path))
        if text is not None:
            headers[PREFIX + token.lower()] = encode_header(text)
    return headers


def mismatch(
    declarations: Declared, arguments: Any, header: Callable[[str], str | None]
) -> str | None:
    """Why the headers do not agree with the arguments; None where they do."""
    for path, token in declarations.items():
        sent, text = header(PREFIX + token.lower()), _rendered(_at(arguments, path))
        name, argument = f"Mcp-Param-{token}", ".".join(path)
        if sent is None and text is not None:
            return f"header {name} is missing, but the argument {argument!r} is there"
        if sent is not None and (text is None or not _same(decode_header(sent), text)):
            return f"header {name} does not match the argument {argument!r}"
    return None


def _same(sent: str | None, text: str) -> bool:
    """Whether a header says what the body says; 42 and 42.0 are the same number."""
    if sent is None or sent == text:
        return sent is not None
    both = _DECIMAL.fullmatch(sent) and _DECIMAL.fullmatch(text)
    return bool(both) and sent.partition(".")[0] == text.partition(".")[0]


def _at(arguments: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(arguments, dict):
            return None
        arguments = arguments.get(key)
    return arguments


def _rendered(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def encode_header(value: str) -> str:
    """A value as MCP's headers carry it: as it is, or in base64 where a header can't hold it."""
    plain = value.isascii() and value.isprintable() and value == value.strip()
    if plain and not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def decode_header(value: str | None) -> str | None:
    """The reverse of `encode_header`; None where the base64 is malformed."""
    if value is None or not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    payload = value[9:-2]
    try:
        data = base64.b64decode(payload, validate=True)
        text = data.decode()
    except ValueError:  # no base64, or no UTF-8 in it
        return None
    return text if base64.b64encode(data).decode() == payload else None
