"""Where a server's code is from: the config's own folder, or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FETCHERS = frozenset(
    {"npx", "uvx", "bunx", "pnpx", "pipx", "docker", "podman", "nerdctl", "npm", "pnpm", "yarn"}
)
"""Programs that run what they fetched, whatever files their arguments name."""

INSTALLED = frozenset({"node_modules", "site-packages", ".venv", "venv"})
"""Folders whose content somebody else wrote, wherever they are."""


_KEEPERS = {
    "sandbox": "its sessions keep their files in one process",
    "battle": "its journal of reports that are not delivered yet has one writer",
}


def keeps(args: Sequence[str]) -> str | None:
    """What one of the project's own servers keeps, so that there can be one process only."""
    if list(args[:1]) == ["-m"]:
        folder, _, name = "".join(args[1:2]).rpartition(".")
    else:
        script = Path("".join(args[:1]))
        folder, name = script.parent.name, script.stem
    return _KEEPERS.get(name) if folder == "servers" else None


def is_own(command: str | None, args: Sequence[str], cwd: Path, root: Path) -> bool:
    """Whether the command runs a script, a program or a module in the config's folder `root`."""
    if command is None or Path(command).stem.lower() in FETCHERS:
        return False
    words = [word for word in args if word == "-m" or not word.startswith("-")]
    if words[:1] == ["run"]:  # uv run SCRIPT, deno run SCRIPT
        words = words[1:]
    if words[:1] == ["-m"]:
        module = words[1].replace(".", "/") if len(words) > 1 else ""
        return any(
            _is_own_file(cwd / way, root) for way in (f"{module}.py", f"{module}/__init__.py")
        )
    return any(_is_own_file(cwd / word, root) for word in (command, *words[:1]))


def _is_own_file(path: Path, root: Path) -> bool:
    try:
        whole, home = path.resolve(), root.resolve()
        inside = whole.is_relative_to(home) and whole.is_file()
    except (OSError, ValueError, RuntimeError):  # no path at all, or links in a circle
        return False
    return inside and INSTALLED.isdisjoint(whole.relative_to(home).parts)
