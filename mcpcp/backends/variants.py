"""Variants: what one server shows to clients of each profile, as far as such clients have asked.

A server may show a tool that asks questions only to clients that can be asked. The list that we get
on our own account has none of those; a client's own connection has. Whoever listed for a profile
keeps that list fresh; when it has left, the list stays until the server's own has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from mcpcp.catalog import Offer
from mcpcp.profiles import BASE, Profile

MOST_PROFILES: Final = 16
"""Profiles that are kept a server; clients make them up, so there must be an end of them."""


class Variants:
    """`offers` is swapped whole; `changed` is called when it was."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.offers: Mapping[Profile, Offer] = {}
        self._changed = changed
        self._keepers: dict[Profile, object] = {}
        self._asked: dict[Profile, float] = {}

    def known(self, profile: Profile, patience: float) -> bool:
        """Whether there is nothing to wait for: it was listed, or not within `patience` seconds."""
        if profile == BASE or profile in self.offers:
            return True
        now = asyncio.get_running_loop().time()
        if len(self._asked) > MOST_PROFILES:
            self._asked.clear()
        return now > self._asked.setdefault(profile, now) + patience

    def put(self, profile: Profile, offer: Offer, keeper: object) -> None:
        """Take what `keeper` was shown in the name of such a client."""
        others = {p: o for p, o in self.offers.items() if p != profile}
        while len(others) >= MOST_PROFILES:
            del others[next(iter(others))]
        self._keepers = {p: k for p, k in self._keepers.items() if p in others}
        self._keepers[profile] = keeper
        self.offers = {**others, profile: offer}
        self._changed()

    def give_up(self, profile: Profile) -> None:
        """Such clients can't be told more than others."""
        self._asked[profile] = float("-inf")
        self._changed()

    def leave(self, keeper: object) -> None:
        """What `keeper` listed is not kept fresh any more."""
        self._keepers = {p: k for p, k in self._keepers.items() if k is not keeper}

    def forget_unkept(self) -> None:
        """What the server shows to us has changed: so may have what nobody keeps fresh."""
        kept = {p: o for p, o in self.offers.items() if p in self._keepers}
        if len(kept) < len(self.offers):
            self.offers = kept
            self._changed()
