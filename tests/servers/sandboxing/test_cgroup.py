"""Control groups: what is asked of systemd, and how a group that it gave is divided."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from servers.sandboxing import cgroup
from servers.sandboxing.outcome import MIB, Limits

pytestmark = pytest.mark.bwrap


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_scope_is_asked_for_and_leaves_nothing_in_the_environment(
    uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    words = cgroup.scoped(["bwrap", "--die-with-parent"])
    asked, after = words[: words.index("--")], words[words.index("--") + 1 :]
    assert "systemd-run" in asked and "--property=Delegate=yes" in asked and "--scope" in asked
    assert ("--user" in asked) == (uid != 0), "root asks the system's, others their own"
    assert after[:2] == ["env", "-i"] and after[-2:] == ["bwrap", "--die-with-parent"]


def test_a_scope_is_divided_after_its_processes_moved_down(tmp_path: Path) -> None:
    tmp_path.joinpath("cgroup.procs").write_text("17\n18\n")
    tmp_path.joinpath("cgroup.subtree_control").write_text("")
    groups = cgroup.divided(tmp_path)
    assert tmp_path.joinpath("maker", "cgroup.procs").read_text() == "18"
    assert groups.version == 2 and set(groups.parents.values()) == {tmp_path}
    group = groups.make(Limits(memory=64 * MIB, processes=10))
    [folder] = set(group.folders.values())
    assert folder.joinpath("memory.max").read_text() == str(64 * MIB)
    assert folder.joinpath("pids.max").read_text() == "12"


def test_version_2_tells_what_was_used(tmp_path: Path) -> None:
    group = cgroup.Group({"memory": tmp_path, "pids": tmp_path}, 2)
    assert (group.cpu_seconds(), group.peak_memory(), group.out_of_memory()) == (None, None, False)
    tmp_path.joinpath("cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    tmp_path.joinpath("memory.peak").write_text("4096\n")
    tmp_path.joinpath("memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert (group.cpu_seconds(), group.peak_memory(), group.out_of_memory()) == (1.5, 4096, True)


def test_a_quota_is_what_the_kernel_has() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        first = cgroup.Group({"memory": folder, "cpu": folder}, 1)
        second = cgroup.Group({"memory": folder}, 2)
        assert (first.limits_processors(), second.limits_processors()) == (False, False)
        folder.joinpath("cpu.max").write_text("max 100000\n")
        folder.joinpath("cpu.cfs_quota_us").write_text("-1\n")
        assert (first.limits_processors(), second.limits_processors()) == (False, False)
        folder.joinpath("cpu.max").write_text("50000 100000\n")
        folder.joinpath("cpu.cfs_quota_us").write_text("50000\n")
        assert (first.limits_processors(), second.limits_processors()) == (True, True)
        assert not cgroup.Group({"memory": folder}, 1).limits_processors()


def test_a_process_that_is_in_no_scope_is_an_error() -> None:
    with pytest.raises(OSError, match="no scope"):
        cgroup.of_scope(1)
