"""Resource URIs: to which server one belongs, and what happens where two claim the same. Pure.

A URI belongs to the first server that lists it; one that nobody lists, to the first whose template
it fits. It stays as its server writes it, unless it belongs to another. Then it is exposed below
`mcpcp://SERVER/`, and everywhere: in lists, links, contents, updates and completion.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any, Final, NamedTuple

from mcpcp.verbatim import Verbatim, whole

_SCHEME: Final = "mcpcp://"
_WEB: Final = ("http://", "https://", "data:")
_LONGEST: Final = 500
"""Characters of a template up to which it is compared with others; whole URIs are short."""
_URI: Final = re.compile(rb'"uri"')
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


def exposed_by(uri: str) -> tuple[str, str] | None:
    """The server that `uri` names and the URI as that server writes it; the reverse of
    `exposed_uri`."""
    if not uri.startswith(_SCHEME):
        return None
    server, slash, own = uri.removeprefix(_SCHEME).partition("/")
    return (server, own) if slash else None


def renamed(result: Any, own: str, asked: str) -> Any:
    """What was read, with the name that it was asked for by."""
    read = whole(result)
    contents = read.get("contents") if isinstance(read, dict) else None
    if not isinstance(contents, list):
        return result
    new = [
        {**item, "uri": asked} if isinstance(item, dict) and item.get("uri") == own else item
        for item in contents
    ]
    return {**read, "contents": new}


class _Part(NamedTuple):
    """A piece of a template: one of `chars`, or a run of any that are not among them."""

    chars: str
    run: bool = False


@lru_cache(maxsize=1024)
def _variants(template: str) -> tuple[tuple[_Part, ...], ...]:
    """The template's parts; more than once where a query may be there or not."""
    pieces: list[list[tuple[_Part, ...]]] = []
    end = 0
    for match in _EXPRESSION.finditer(template):
        pieces.append([tuple(map(_Part, template[end : match.start()]))])
        pieces.append(_pieces(match[1], match[2]))
        end = match.end()
    pieces.append([tuple(map(_Part, template[end:]))])
    return tuple(tuple(p for piece in chosen for p in piece) for chosen in product(*pieces))


def _pieces(operator: str, variables: str) -> list[tuple[_Part, ...]]:
    """The same as `_expression` says."""
    if operator in ("?", "&"):
        return [(), (_Part(f"{operator}&"), _Part("#", run=True))]
    if operator in ("+", "#", "/") or variables.endswith("*"):
        return [(_Part("", run=True),)]
    return [(_Part("/?#", run=True),)]


@lru_cache(maxsize=4096)
def overlap(one: str, other: str) -> bool:
    """Whether there are URIs that fit both templates."""
    if one == other:
        return True
    if max(len(one), len(other)) > _LONGEST:
        return False
    return any(_meet(a, b) for a, b in product(_variants(one), _variants(other)))


def _meet(one: tuple[_Part, ...], other: tuple[_Part, ...]) -> bool:
    """Whether some text is both: a walk over the pairs of parts that can have come so far."""
    seen = {(0, 0)}
    ahead = [(0, 0)]
    while ahead:
        at = ahead.pop()
        if at == (len(one), len(other)):
            return True
        for following in _steps(one, other, *at):
            if following not in seen:
                seen.add(following)
                ahead.append(following)
    return False


def _steps(
    one: tuple[_Part, ...], other: tuple[_Part, ...], i: int, j: int
) -> Iterator[tuple[int, int]]:
    a = one[i] if i < len(one) else None
    b = other[j] if j < len(other) else None
    if a is not None and a.run:
        yield i + 1, j
    if b is not None and b.run:
        yield i, j + 1
    if a is None or b is None or (a.run and b.run):
        return
    if a.run or b.run:
        run, single = (a, b) if a.run else (b, a)
        if set(single.chars) - set(run.chars):
            yield (i, j + 1) if a.run else (i + 1, j)
    elif set(a.chars) & set(b.chars):
        yield i + 1, j + 1


class Rewriter:
    """Writes a server's URIs as clients know them.

    `uris` and `templates` are what the server has, `shared` those templates that have URIs in
    common with ones that another has claimed; `owners` says who was the first to list a URI. With
    `company`, other servers have resources too, and a link to what nobody lists says whose it is.
    """

    def __init__(
        self,
        server: str,
        uris: Collection[str],
        templates: Collection[str],
        shared: Collection[str],
        owners: Mapping[str, str],
        *,
        company: bool = False,
    ) -> None:
        self._server = server
        self._uris = frozenset(uris)
        self._templates = tuple(templates)
        self._shared = tuple(shared)
        self._owners = owners
        self._company = company

    def __bool__(self) -> bool:
        """Whether anything may have to be written in another way."""
        if self._shared or self._company:
            return True
        if self._templates:
            return any(owner != self._server for owner in self._owners.values())
        return any(self._owners.get(uri) != self._server for uri in self._uris)

    def template(self, pattern: str) -> str:
        """One template as clients know it."""
        return exposed_uri(self._server, pattern) if pattern in self._shared else pattern

    def uri(self, uri: str) -> str:
        """One URI as clients know it."""
        return uri if self._is_plain(uri) else exposed_uri(self._server, uri)

    def _is_plain(self, uri: str) -> bool:
        listed = uri in self._uris
        owner = self._owners.get(uri, self._server if listed else None)
        if owner == self._server:
            return True
        if listed:
            return False
        of_ours = self._shared if owner is None else self._templates
        return not any(fits(template, uri) for template in of_ours)

    def _is_unlisted_link(self, item: dict[str, Any], uri: str) -> bool:
        """Whether that is a link to a resource which only this server knows, and only links to.

        Pages of the web are the client's to fetch.
        """
        return (
            self._company
            and item.get("type") == "resource_link"
            and uri not in self._owners
            and not uri.startswith(_WEB)
            and not any(fits(template, uri) for template in self._templates)
        )

    def result(self, result: Any) -> Any:
        """A result with the URIs of its contents and links rewritten; the very same object where
        none is."""
        if type(result) is Verbatim and _URI.search(result.text) is None:
            return result
        read = whole(result)
        if not isinstance(read, dict):
            return result
        changed: dict[str, Any] = {}
        for member in ("content", "contents", "messages"):
            if isinstance(items := read.get(member), list):
                new = [self._item(item) for item in items]
                if any(a is not b for a, b in zip(new, items, strict=True)):
                    changed[member] = new
        return {**read, **changed} if changed else result

    def _item(self, item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        changed: dict[str, Any] = {}
        uri = item.get("uri")
        if isinstance(uri, str) and (not self._is_plain(uri) or self._is_unlisted_link(item, uri)):
            changed["uri"] = exposed_uri(self._server, uri)
        for member in ("resource", "content"):
            inner = item.get(member)
            if isinstance(inner, dict) and (new := self._item(inner)) is not inner:
                changed[member] = new
        return {**item, **changed} if changed else item
