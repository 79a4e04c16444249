"""Resource URIs: to which server one belongs, and what happens where two claim the same. Pure.

A URI stays as its server writes it, unless another server claimed it first. Then it is exposed
below `mcpcp://SERVER/`, and everywhere: in lists, links, contents, updates and completion.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final

from mcpcp.verbatim import whole

_SCHEME: Final = "mcpcp://"
_EXPRESSION: Final = re.compile(r"\{([+#./;?&]?)([^}]*)\}")


def exposed_uri(server: str, uri: str) -> str:
    """`uri` under a name that no other server can claim."""
    return f"{_SCHEME}{server}/{uri}"


@lru_cache(maxsize=4096)
def _template(pattern: str) -> re.Pattern[str]:
    parts = []
    end = 0
    for match in _EXPRESSION.finditer(pattern):
        parts.append(re.escape(pattern[end : match.start()]))
        parts.append(_expression(match[1], match[2]))
        end = match.end()
    parts.append(re.escape(pattern[end:]))
    return re.compile("".join(parts), re.DOTALL)


def _expression(operator: str, variables: str) -> str:
    """What one expression of RFC 6570 may stand for; generous, as the server decides in the end."""
    if operator in ("?", "&"):
        return f"(?:[{operator}&][^#]*)?"
    if operator in ("+", "#", "/") or variables.endswith("*"):
        return ".*"
    return "[^/?#]*"


def fits(template: str, uri: str) -> bool:
    """Whether `uri` may be an expansion of the URI template."""
    return _template(template).fullmatch(uri) is not None


class Rewriter:
    """Writes a server's URIs as clients know them; false where they are the same anyway."""

    def __init__(self, server: str, uris: Collection[str], templates: Collection[str]) -> None:
        self._server = server
        self._uris = frozenset(uris)
        self._templates = tuple(templates)

    def __bool__(self) -> bool:
        return bool(self._uris or self._templates)

    def template(self, pattern: str) -> bool:
        """Whether another server has claimed that template."""
        return pattern in self._templates

    def uri(self, uri: str) -> str:
        """One URI as clients know it."""
        if uri in self._uris or any(fits(t, uri) for t in self._templates):
            return exposed_uri(self._server, uri)
        return uri

    def result(self, result: Any) -> Any:
        """A result, with the URIs of its contents and links rewritten."""
        if not self:
            return result
        result = whole(result)
        if not isinstance(result, dict):
            return result
        changed = dict(result)
        for member in ("content", "contents", "messages"):
            if isinstance(items := result.get(member), list):
                changed[member] = [self._item(item) for item in items]
        return changed

    def _item(self, item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        changed = dict(item)
        if isinstance(item.get("uri"), str):
            changed["uri"] = self.uri(item["uri"])
        for member in ("resource", "content"):
            if isinstance(item.get(member), dict):
                changed[member] = self._item(item[member])
        return changed
