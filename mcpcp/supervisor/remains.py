"""What guard and supervisor do last: leave nothing behind."""

from __future__ import annotations

from pathlib import Path

from mcpcp.processes import kill_everything_below_us


def kill_rest(runtime_dir: Path) -> int:
    """Kill all that is left below this process, remove the fleet's sockets; says how many died."""
    killed = kill_everything_below_us(str(runtime_dir))
    for socket in runtime_dir.glob("*.sock"):
        socket.unlink(missing_ok=True)
    return killed
