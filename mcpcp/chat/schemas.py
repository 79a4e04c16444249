"""A tool's input schema in the words that strict model providers accept; pure.

The model needs to know what to write; the server that gets the arguments is who checks them. So
what a provider may refuse (references, unions of types, formats, conditions) is resolved or left
out, and never made narrower than it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

_KEPT: Final = (
    *("description", "enum", "minimum", "maximum", "minItems", "maxItems"),
    *("minLength", "maxLength", "pattern"),
)
_DEEPEST: Final = 12
_LONGEST_DESCRIPTION: Final = 1024
_MOST_NODES: Final = 2_000


def simplified(schema: Any) -> Schema:
    """An object schema without references, unions of types and rare keywords."""
    walk = _Walk(schema if isinstance(schema, dict) else {})
    simple = walk.object(walk.root, 0, ())
    return {"type": "object", "properties": {}, **simple}


class _Walk:
    """One schema's traversal; `root` is what references start from."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self._nodes = 0

    def node(self, schema: Any, depth: int, way: tuple[str, ...]) -> Schema:
        """Any schema; {} where it says nothing that can be said simply."""
        self._nodes += 1
        if not isinstance(schema, dict) or depth > _DEEPEST or self._nodes > _MOST_NODES:
            return {}
        schema, way = self._resolved(schema, way)
        chosen = self._chosen(schema)
        if chosen is not None:
            inner = self.node(chosen, depth + 1, way)
            return {**inner, **_described(schema)}
        kind = _kind(schema)
        simple: Schema = {k: schema[k] for k in _KEPT if k in schema and k != "description"}
        simple |= _described(schema)
        if "const" in schema:
            simple["enum"] = [schema["const"]]
        if kind is not None:
            simple["type"] = kind
        if kind == "object":
            simple |= self.object(schema, depth, way)
        elif kind == "array":
            simple["items"] = self.node(schema.get("items"), depth + 1, way)
        return simple

    def object(self, schema: Schema, depth: int, way: tuple[str, ...]) -> Schema:
        """`properties` and `required` of an object schema."""
        schema, way = self._resolved(schema, way)
        schema = self._merged(schema, way)
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        simple: Schema = {
            "properties": {str(k): self.node(v, depth + 1, way) for k, v in properties.items()}
        }
        required = schema.get("required")
        names = required if isinstance(required, list) else []
        if known := [n for n in names if isinstance(n, str) and n in properties]:
            simple["required"] = known
        return simple

    def _resolved(self, schema: Schema, way: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """The schema behind references; one that leads back to itself says nothing."""
        while isinstance(reference := schema.get("$ref"), str):
            rest = {k: v for k, v in schema.items() if k != "$ref"}
            target = None if reference in way else self._target(reference)
            schema = {**(target or {}), **rest}
            way = (*way, reference)
            if len(way) > _DEEPEST:
                return {}, way
        return schema, way

    def _target(self, reference: str) -> Schema | None:
        if not reference.startswith("#"):
            return None
        found: Any = self.root
        for part in reference.removeprefix("#").strip("/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if name:
                found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else None

    def _merged(self, schema: Schema, way: tuple[str, ...]) -> Schema:
        """`allOf` of objects is one object."""
        parts = schema.get("allOf")
        if not isinstance(parts, list):
            return schema
        properties: Schema = {}
        required: list[Any] = []
        for part in [{k: v for k, v in schema.items() if k != "allOf"}, *parts]:
            if isinstance(part, dict):
                inner, _ = self._resolved(part, way)
                if isinstance(inner.get("properties"), dict):
                    properties |= inner["properties"]
                if isinstance(inner.get("required"), list):
                    required += inner["required"]
        return {**schema, "properties": properties, "required": required}

    def _chosen(self, schema: Schema) -> Any:
        """The one choice of a union that is worth telling: the first that is not null."""
        for word in ("anyOf", "oneOf"):
            choices = schema.get(word)
            if isinstance(choices, list):
                real = [c for c in choices if isinstance(c, dict) and c.get("type") != "null"]
                if real and "type" not in schema:
                    return real[0] if len(real) == 1 else _common(real)
        parts = schema.get("allOf")
        if isinstance(parts, list) and len(parts) == 1 and "type" not in schema:
            return parts[0]
        return None


def _common(choices: list[Schema]) -> Schema:
    """Several choices: their enums together where all are such, else the types in words."""
    values: list[Any] = []
    for choice in choices:
        listed = choice.get("enum", [choice["const"]] if "const" in choice else None)
        if not isinstance(listed, list):
            kinds = sorted({str(c.get("type", "any")) for c in choices})
            return {"description": "One of: " + ", ".join(kinds)}
        values += [value for value in listed if value not in values]
    return {"enum": values}


def _kind(schema: Mapping[str, Any]) -> str | None:
    kind = schema.get("type")
    if isinstance(kind, list):
        real = [k for k in kind if k != "null"]
        kind = real[0] if len(real) == 1 else None
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "allOf" in schema:
        return "object"
    return "array" if "items" in schema else None


def _described(schema: Mapping[str, Any]) -> Schema:
    text = schema.get("description")
    return {"description": text[:_LONGEST_DESCRIPTION]} if isinstance(text, str) and text else {}
