"""One line of text to words, as a shell would split it; and nothing else that a shell does.

Pure. Characters that a shell would act on are refused rather than taken literally: whoever wrote
them means something by them that will not happen.
"""

from __future__ import annotations

import unicodedata

LONGEST = 8192
_ACTIVE = {
    "|": "a pipe",
    "&": "`&`",
    ";": "`;`",
    "<": "a redirection",
    ">": "a redirection",
    "`": "a command substitution",
    "$": "a variable or substitution",
    "(": "a subshell",
    ")": "a subshell",
}
_ESCAPABLE_IN_QUOTES = '"\\$`'


class Refused(Exception):
    """The command is not one that we run; the message says why and what is possible."""


def split(line: str) -> list[str]:
    """The words of a command line; raises Refused for anything but plain words and quotes.

    A line break is a character like others in quotes, nothing after a backslash, and the end of the
    command elsewhere: what follows it would be a second command.
    """
    line = line.strip("\n")
    _check(line)
    return _Splitter(line).words()


def _check(line: str) -> None:
    if len(line) > LONGEST:
        raise Refused(f"the command is longer than {LONGEST} characters")
    for char in line:
        if char not in "\t\n" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            raise Refused(f"the command has an invisible character (U+{ord(char):04X})")


def _in_double_quotes(escaped: str) -> str:
    """What a backslash and the character after it come to."""
    if escaped == "\n":
        return ""
    return escaped if escaped in _ESCAPABLE_IN_QUOTES else f"\\{escaped}"


class _Splitter:
    """Walks the line once; a word is None between words, so that '' can be a word."""

    def __init__(self, line: str) -> None:
        self._rest = iter(line)
        self._word: str | None = None
        self._words: list[str] = []

    def words(self) -> list[str]:
        for char in self._rest:
            self._plain(char)
        self._end_word()
        return self._words

    def _plain(self, char: str) -> None:
        if char in " \t":
            self._end_word()
        elif char == "'":
            self._add(self._single())
        elif char == '"':
            self._add(self._double())
        elif char == "\\":
            self._backslash()
        elif char == "\n":
            raise Refused("the command has more than one line: give one command")
        elif char in _ACTIVE:
            raise Refused(
                f"{_ACTIVE[char]} has no meaning here, there is no shell: give one docker command"
                " (quote the character if it belongs to an argument)"
            )
        else:
            self._add(char)

    def _add(self, text: str) -> None:
        self._word = (self._word or "") + text

    def _end_word(self) -> None:
        if self._word is not None:
            self._words.append(self._word)
        self._word = None

    def _backslash(self) -> None:
        char = self._escaped()
        if char != "\n":  # the line goes on, and a word only if it does
            self._add(char)

    def _escaped(self) -> str:
        char = next(self._rest, None)
        if char is None:
            raise Refused("the command ends in a backslash")
        return char

    def _single(self) -> str:
        text = ""
        for char in self._rest:
            if char == "'":
                return text
            text += char
        raise Refused("a ' is not closed")

    def _double(self) -> str:
        text = ""
        for char in self._rest:
            if char == '"':
                return text
            if char == "\\":
                char = _in_double_quotes(self._escaped())
            text += char
        raise Refused('a " is not closed')
