"""What the tests of `servers/` may ask for."""

from __future__ import annotations

from tests.engine import docker_engine

__all__ = ["docker_engine"]
