"""The program that a sandbox starts with: the modules of `inside` as one piece of Python.

It travels as an argument of `python -c`, so no file of ours has to be readable for the sandbox.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

_PACKAGE = "servers.sandboxing.inside"
_MODULES = ("frames", "kernel", "usage", "collect", "figures", "code", "init", "maker", "porter")

_LOAD = """
import sys, types
package = types.ModuleType({package!r})
sys.modules[{package!r}] = package
for name, source in {sources!r}:
    module = types.ModuleType({package!r} + "." + name)
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(compile(source, module.__name__, "exec"), module.__dict__)
package.{main}.main()
"""


@cache
def program(main: Literal["init", "maker", "porter"]) -> str:
    """Python source that runs the module's `main`."""
    folder = Path(__file__).with_name("inside")
    sources = [(name, (folder / f"{name}.py").read_text("utf-8")) for name in _MODULES]
    return _LOAD.format(package=_PACKAGE, sources=sources, main=main)
