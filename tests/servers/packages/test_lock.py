"""What the resolver says is data: only wheels with hashes on the index's hosts pass."""

from __future__ import annotations

import pytest

from servers.packages.errors import BadLock
from servers.packages.lock import Lock, Target, parse

TARGET = Target("3.11", "x86_64-manylinux_2_28")
HASH = "ab" * 32


def resolved(
    name: str = "six",
    version: str = "1.0",
    wheels: str = f'[{{ url = "https://files/six.whl", hashes = {{ sha256 = "{HASH}" }} }}]',
    more: str = "",
) -> str:
    return f'[[packages]]\nname = "{name}"\nversion = "{version}"\nwheels = {wheels}\n{more}\n'


def test_a_lock_reads_back_as_it_was_written() -> None:
    lock = parse(resolved("Six") + resolved("b"), TARGET, ["files"], 9)
    assert [str(w.requirement) for w in lock.wheels] == ["b==1.0", "six==1.0"]
    assert parse(lock.to_toml(), TARGET, ["files"], 9) == lock
    assert Lock.of_json(lock.to_json()) == lock


def test_its_name_changes_with_files_and_target_and_with_nothing_else() -> None:
    lock = parse(resolved(), TARGET, ["files", "other"], 9)
    elsewhere = parse(resolved().replace("//files", "//other"), TARGET, ["files", "other"], 9)
    changed = parse(resolved().replace(HASH, "cd" * 32), TARGET, ["files"], 9)
    newer = parse(resolved(), Target("3.12", TARGET.platform), ["files"], 9)
    assert lock.digest == elsewhere.digest
    assert len({lock.digest, changed.digest, newer.digest}) == 3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("]", "can't be read"),
        ("packages = 3", "more than 9 packages"),
        ("packages = [3]", "not from the index"),
        (resolved() * 10, "more than 9 packages"),
        (resolved() * 2, "twice"),
        (resolved(name="../../etc"), "is no package name"),
        (resolved(version="1.0; rm"), "is no version"),
        (resolved(wheels="[]"), "not one wheel"),
        (
            '[[packages]]\nname = "x"\nversion = "1"\nsdist = { url = "https://files/x.tgz" }\n',
            "not one wheel",
        ),
        (
            '[[packages]]\nname = "x"\nvcs = { type = "git", url = "https://files/x" }\n',
            "not from the index",
        ),
        (resolved(wheels='[{ url = "https://files/six.whl" }]'), "no SHA-256"),
        (
            resolved(wheels='[{ url = "https://files/s", hashes = { sha256 = "ab" } }]'),
            "no SHA-256",
        ),
        (resolved().replace("https:", "file:"), "no address"),
        (resolved().replace("//files", "//files.evil"), "SANDBOX_INDEX_HOSTS"),
        (resolved().replace("//files", "//files@evil"), "SANDBOX_INDEX_HOSTS"),
    ],
)
def test_anything_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadLock, match=why):
        parse(text, TARGET, ["files"], 9)
