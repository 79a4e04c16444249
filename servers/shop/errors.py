"""What can go wrong in the shop; every message is safe to show and says what to do next.

ShopError
├── Refused          a rule of the shop says no; nothing was changed
└── DatabaseTrouble
    ├── Away         it can't be reached, or refused; nothing was changed
    └── Unsure       it went away during a write: changed or not, nobody knows
"""

from __future__ import annotations


class ShopError(Exception):
    """Anything that a tool answers with instead of a result."""


class Refused(ShopError):
    """A rule of the shop says no; nothing was changed."""


class DatabaseTrouble(ShopError):
    """The database did not do its part."""


class Away(DatabaseTrouble):
    """The database can't be reached, or refused: nothing was changed."""


class Unsure(DatabaseTrouble):
    """The database went away during a write: whether it was done is not known."""
