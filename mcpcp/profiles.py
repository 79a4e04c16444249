"""A client's profile: what it can, as far as servers may show it other things than others. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NewType

import orjson

Profile = NewType("Profile", bytes)
"""The capabilities that a client declares, as canonical JSON."""
BASE: Final = Profile(b"{}")
"""A client that can nothing beside calling: what the gateway is on its own account."""


def profile_of(capabilities: Any) -> Profile:
    """The profile of a client that declares `capabilities`; what is no object declares nothing."""
    if not capabilities or not isinstance(capabilities, Mapping):
        return BASE
    return Profile(orjson.dumps(capabilities, option=orjson.OPT_SORT_KEYS))


def capabilities_of(profile: Profile) -> dict[str, Any]:
    """The reverse of `profile_of`."""
    capabilities: dict[str, Any] = orjson.loads(profile)
    return capabilities
