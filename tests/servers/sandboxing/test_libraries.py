"""Which folders of this Python's libraries sandboxes are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers.sandboxing.libraries import libraries


def distribution(root: Path, name: str, needs: str, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).touch()
    about = root / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n{needs}")
    record = [*files, f"{about.name}/METADATA"]
    about.joinpath("RECORD").write_text("".join(f"{path},,\n" for path in record))


def test_a_folder_that_packages_share_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = "Requires-Dist: shared-two\nRequires-Dist: absent-one; extra == 'x'\n"
    distribution(tmp_path, "shared-one", needs, "one/__init__.py", "common/one.py")
    distribution(tmp_path, "shared-two", "", "two.py", "common/two.py")
    distribution(tmp_path, "unneeded", "", "unneeded.py")
    monkeypatch.syspath_prepend(tmp_path)
    found = libraries(("shared-one", "surely-absent"))
    names = [path.name for path in found if not path.name.endswith(".dist-info")]
    assert names == ["common", "one", "two.py"]
