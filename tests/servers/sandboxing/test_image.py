"""The image for sandboxes in containers, made out of this machine's own Python."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from servers.sandboxing import image
from servers.sandboxing.outcome import Limits
from tests.servers.harness import DEADLINE
from tests.servers.sandboxing.runner import Runner

WATCH = """
import importlib.machinery
compiled = []
def source_to_code(self, data, path, **_):
    compiled.append(path)
    return compile(data, path, "exec", dont_inherit=True)
importlib.machinery.SourceFileLoader.source_to_code = source_to_code
"""


@pytest.mark.anyio
@pytest.mark.docker
async def test_no_module_of_the_image_is_compiled_in_a_container(kept: Runner) -> None:
    code = WATCH + "import matplotlib.pyplot, numpy.testing, pandas, pylab, sqlite3, xmlrpc.client"
    outcome = await kept.run(code + "\ncompiled", Limits(timeout=DEADLINE))
    assert (outcome.status, outcome.result) == ("ok", "[]"), outcome


def packed(source: Path, into: Path) -> None:
    """The module, or the folder of them, as it is in an image."""
    with tarfile.open(into.with_suffix(".tar"), "w") as tar:
        image.add_modules(tar, source, source.name, image.installed)
    with tarfile.open(into.with_suffix(".tar")) as tar:
        tar.extractall(into, filter="data")


def compiled(folder: Path, modules: str) -> list[str]:
    """Those that this Python compiles when it imports these from there."""
    code = f"{WATCH}import {modules}\nprint('\\n'.join(compiled), end='')"
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return [str(Path(line).relative_to(folder)) for line in done.stdout.splitlines()]


def test_modules_that_have_no_byte_code_get_it(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.joinpath("below").mkdir(parents=True)
    alone = tmp_path / "alone.py"
    for module in (alone, package / "__init__.py", package / "below/__init__.py"):
        module.write_text("answer = 42\n")
    for source in (package, alone):
        packed(source, tmp_path / "image")
    assert compiled(tmp_path / "image", "alone, package.below") == []
    assert compiled(tmp_path, "alone") == ["alone.py"]  # else this would prove nothing


def test_byte_code_that_is_there_is_taken_and_tests_are_left_out(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.joinpath("tests").mkdir(parents=True)
    for name in ("__init__.py", "tests/__init__.py"):
        package.joinpath(name).write_text("answer = 42\n")
        py_compile.compile(str(package / name))
    package.joinpath("tests/data").write_text("")
    packed(package, tmp_path / "image")
    cache = f"__pycache__/__init__.{sys.implementation.cache_tag}.pyc"
    there = tmp_path / "image/package"
    found = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert found == {"__init__.py", cache}
    assert there.joinpath(cache).read_bytes() == package.joinpath(cache).read_bytes()


def test_a_module_that_can_not_be_compiled_is_in_the_image_as_it_is(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    package.joinpath("__init__.py").write_text("")
    package.joinpath("template.py").write_text("{{ name }} = no Python\n")
    packed(package, tmp_path / "image")
    assert tmp_path.joinpath("image/package/template.py").is_file()
    assert compiled(tmp_path / "image", "package") == []


def test_help_needs_no_engine_and_makes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "servers.sandboxing.image", "--help"],
        cwd=tmp_path,
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nobody"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "out of this machine's own Python" in done.stdout
