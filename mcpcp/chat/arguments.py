"""The arguments that a model wrote for a call, read strictly."""

from __future__ import annotations

import json
from typing import Any, Final

_SHOWN: Final = 200


def parse_arguments(text: str) -> dict[str, Any] | str:
    """The object that `text` holds, nothing at all meaning an empty one; else what is wrong."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error)
    else:
        if isinstance(value, dict):
            return value
        reason = f"they are of type {type(value).__name__}"
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return (
        f"Not called: the arguments are not one JSON object ({reason}). They were: {shown}\n"
        "Call it again with arguments that are one JSON object."
    )


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
