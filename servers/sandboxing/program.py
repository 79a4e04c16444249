"""The program that a sandbox starts with: the modules of `inside` as one piece of Python.

It travels as an argument of `python -c`, so no file of ours has to be readable for the sandbox.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

_PACKAGE = "servers.sandboxing.inside"
_MODULES = (
    *("frames", "link", "kernel", "usage", "collect", "figures", "code"),
    *("init", "maker", "porter"),
)

# each is compiled when it is first imported: a porter needs a few of them only
_LOAD = """
import sys
from importlib.machinery import ModuleSpec
sources = {sources!r}
class Carried:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=not sources[name]) if name in sources else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(compile(sources[module.__name__], module.__name__, "exec"), module.__dict__)
sys.meta_path.insert(0, Carried())
from {package} import {main}
{main}.main()
"""


@cache
def program(main: Literal["init", "maker", "porter"]) -> str:
    """Python source that runs the module's `main`."""
    folder = Path(__file__).with_name("inside")
    above = ("servers", "servers.sandboxing", _PACKAGE)
    sources = {
        **dict.fromkeys(above, ""),
        **{f"{_PACKAGE}.{n}": (folder / f"{n}.py").read_text("utf-8") for n in _MODULES},
    }
    return _LOAD.format(package=_PACKAGE, sources=sources, main=main)
