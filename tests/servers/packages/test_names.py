"""Names, versions, imitations and verdicts: pure decisions."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.packages.errors import NotAPackage
from servers.packages.imitation import Known, distance, is_slip, well_known
from servers.packages.judgement import Rules, blocklist, judge, shipped_blocklist, worst
from servers.packages.names import (
    Requirement,
    checked_version,
    normalized,
    requirement,
    same_version,
)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("NumPy", "numpy"), ("zope.interface", "zope-interface"), ("a__b-.c", "a-b-c"), ("x2", "x2")],
)
def test_names_are_compared_as_the_index_does(written: str, meant: str) -> None:
    assert normalized(written) == meant


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0.0"), ("1.0.post1", "1.post1"), ("0!2.0rc1", "2.0.0rc01"), ("1.0.0.dev3", "1.dev3")],
)
def test_versions_are_compared_as_the_index_does(one: str, other: str) -> None:
    assert same_version(one, other) and same_version(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.0", "10"), ("1.0.1", "1.1"), ("1!1.0", "1.0"), ("1.0rc1", "1.0"), ("1.10", "1.1")],
)
def test_other_versions_are_others(one: str, other: str) -> None:
    assert not same_version(one, other)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "-x",
            "x-",
            ".",
            "a b",
            "a/b",
            "../a",
            "a@b",
            "numpy\n",
            "numpy\0",
            "nümpy",
            "numpy\u0661",
        ),
        *("numpy[extra]", "numpy>=1", "git+https://x/y", "--index-url", "a" * 101, "num\u200bpy"),
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(NotAPackage, match="is no package name"):
        normalized(name)


@pytest.mark.parametrize(
    "version", ["1", "2.1.0", "1!2.0", "1.0rc1", "1.0.post2.dev3", "1.0+cpu.1"]
)
def test_an_exact_version_is_taken(version: str) -> None:
    assert checked_version(version) == version


@pytest.mark.parametrize(
    "version", ["", "*", "1.*", ">=1", "1.0\n", "1.0 ", "latest", "1.\u0662", "1;x"]
)
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(NotAPackage, match="is no version"):
        checked_version(version)


def test_a_requirement_is_a_name_or_a_pin() -> None:
    assert requirement("Six==1.16.0") == Requirement("six", "1.16.0")
    assert requirement(" six ") == Requirement("six")
    with pytest.raises(NotAPackage):
        requirement("six==")


@given(st.text(max_size=30))
def test_no_text_but_a_name_passes(text: str) -> None:
    try:
        name = normalized(text)
    except NotAPackage:
        return
    assert normalized(name) == name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert name.strip("-") == name


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *(("reqeusts", "requests"), ("requets", "requests"), ("requestss", "requests")),
        *(("scikitlearn", "scikit-learn"), ("learn-scikit", "scikit-learn")),
        *(
            ("num-py", "numpy"),
            ("djang0", "django"),
            ("pand4s", "pandas"),
            ("rnatplotlib", "matplotlib"),
        ),
        *(("python-requests", "requests"), ("requests3", "requests"), ("numpy-dev", "numpy")),
        *(("tqmd", "tqdm"), ("beautifulsuop5", "beautifulsoup4")),
    ],
)
def test_a_name_that_looks_like_a_well_known_one_is_found_out(name: str, known: str) -> None:
    assert well_known().imitated_by(name) == known


@pytest.mark.parametrize(
    "name", ["humanize", "cowsay", "qrcode", "xmltodict", "art", "six", "sixx"]
)
def test_honest_names_are_left_alone(name: str) -> None:
    assert well_known().imitated_by(name) is None


def test_no_well_known_name_imitates_another() -> None:
    known = well_known()
    assert len(known.names) > 1000
    assert not [name for name in known.names if known.imitated_by(name)]


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_distance_is_symmetrical_and_bounded(a: str, b: str) -> None:
    assert distance(a, b, 3) == distance(b, a, 3)
    assert (distance(a, b, 3) == 0) == (a == b)
    assert distance(a, b, 1) == min(distance(a, b, 8), 2)


def test_two_slips_are_allowed_for_in_long_names_only() -> None:
    assert is_slip("tensorflwo-addoms", "tensorflow-addons")
    assert not is_slip("nunpi", "numpy")


RULES = Rules(blocklist("evil, flaky==1.5  # taken over"), known=partial(Known, ["numpy", "flaky"]))


@pytest.mark.parametrize(
    ("package", "status"),
    [
        *(
            ("numpy", "allowed"),
            ("something", "allowed"),
            ("evil", "blocked"),
            ("evil==2", "blocked"),
        ),
        *(("flaky", "allowed"), ("flaky==1.5", "blocked"), ("flaky==1.6", "allowed")),
        *(("flaky==1.5.0", "blocked"), ("flaky==01.5", "blocked"), ("flaky==1.5+again", "blocked")),
        *(("flaky==1.50", "allowed"), ("flaky==1.5.post1", "allowed"), ("flaky==15", "allowed")),
        *(("numpi", "requires_approval"), ("subprocess", "requires_approval")),
    ],
)
def test_the_verdict(package: str, status: str) -> None:
    assert judge(requirement(package), RULES, ()).status == status


def test_an_approval_lets_in_all_versions_or_one() -> None:
    any_version, one = [requirement("numpi")], [requirement("numpi==1.0")]
    assert judge(requirement("numpi==2.0"), RULES, any_version).status == "allowed"
    assert judge(requirement("numpi==1.0"), RULES, one).status == "allowed"
    assert judge(requirement("numpi"), RULES, one).status == "allowed"
    assert judge(requirement("numpi==2.0"), RULES, one).status == "requires_approval"


def test_nobody_can_approve_what_is_blocked() -> None:
    assert judge(requirement("evil"), RULES, [requirement("evil")]).status == "blocked"


@pytest.mark.parametrize(
    ("approve", "package", "status"),
    [
        *(("unknown", "numpy", "allowed"), ("unknown", "something", "requires_approval")),
        ("all", "numpy", "requires_approval"),
    ],
)
def test_the_operator_may_ask_for_more(approve: str, package: str, status: str) -> None:
    rules = Rules(RULES.blocked, approve, RULES.known)  # type: ignore[arg-type]
    assert judge(requirement(package), rules, ()).status == status
    assert judge(requirement(package), rules, [requirement(package)]).status == "allowed"


def test_what_is_blocked_is_told_before_what_could_be_approved() -> None:
    verdicts = [judge(requirement(p), RULES, ()) for p in ("numpi", "evil", "numpy")]
    assert [v.package.name for v in worst(verdicts)] == ["evil"]


def test_the_shipped_blocklist_blocks_no_well_known_name() -> None:
    names = {package.name for package in shipped_blocklist() if package.version is None}
    assert not names & well_known().names
