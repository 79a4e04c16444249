"""What the tests of the command line may ask for."""

from tests.engine import docker_engine

__all__ = ["docker_engine"]
