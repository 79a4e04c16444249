"""Splitting a command line as a shell would, and nothing more."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servers.docker_policy.words import Refused, split

PLAIN = st.text(
    st.characters(
        codec="utf-8",
        exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"],
        include_characters="\t\n",
    ),
    max_size=20,
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run --rm alpine", ["run", "--rm", "alpine"]),
        ("  a\t b ", ["a", "b"]),
        ("echo 'a b'\"c d\"e", ["echo", "a bc de"]),
        (r'a\ b "x\"y\$z\n"', ["a b", r'x"y$z\n']),
        ("''", [""]),
        ("a '' b", ["a", "", "b"]),
        ("sh -c 'a | b; $c > d'", ["sh", "-c", "a | b; $c > d"]),
        ("", []),
        ("run \\\n  --rm \\\n alpine\n", ["run", "--rm", "alpine"]),
        ("al\\\npine", ["alpine"]),
        ("sh -c 'a\nb' \"c\nd\\\ne\"", ["sh", "-c", "a\nb", "c\nde"]),
    ],
)
def test_words_are_split_as_a_shell_does(line: str, words: list[str]) -> None:
    assert split(line) == words


@given(st.lists(PLAIN, max_size=6))
def test_what_is_quoted_for_a_shell_comes_back(words: list[str]) -> None:
    assert split(shlex.join(words)) == words


@pytest.mark.parametrize("char", list("|&;<>`$()"))
def test_what_a_shell_would_act_on_is_refused(char: str) -> None:
    with pytest.raises(Refused, match="no shell"):
        split(f"ps {char} rm")


@pytest.mark.parametrize(
    "char", ["\r", "\0", "\x1b", "\x7f", "\u202e", "\u200b", "\u2028", "\U000e0041"]
)
def test_invisible_characters_are_refused_even_in_quotes(char: str) -> None:
    with pytest.raises(Refused):
        split(f"run alpine 'a{char}b'")


@pytest.mark.parametrize("line", ["ps\nrm x", "ps \n", "run alpine 'a\nb'\nps", "\\\\\nps"])
def test_a_second_line_is_refused(line: str) -> None:
    with pytest.raises(Refused, match="one command"):
        split(f"{line}\nps")


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab'\"\\ \n\t"), max_size=30))
@example(r'"\"\\" \a')
def test_what_is_split_is_what_a_shell_splits(line: str) -> None:
    try:
        words = split(line)
    except Refused:
        return
    shown = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\0' {line.strip(chr(10))}"], capture_output=True, check=True
    )
    assert [*words, ""] == (shown.stdout.decode() if words else "").split("\0")


@pytest.mark.parametrize("line", ["'open", '"open', 'a "b\\', "end\\"])
def test_what_is_not_closed_is_refused(line: str) -> None:
    with pytest.raises(Refused):
        split(line)


def test_a_line_has_a_length() -> None:
    with pytest.raises(Refused, match="longer"):
        split("x" * 8193)
