"""The gateway alone, as in tests/gateway."""

from tests.gateway.conftest import fresh

__all__ = ["fresh"]
