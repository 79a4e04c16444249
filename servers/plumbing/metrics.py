"""What a server counts beside its calls: whatever registers here is part of its /metrics."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry

REGISTRY: Final = CollectorRegistry()
