"""The secret for reading metrics: made once, private, and refused in a bad form."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcpcp.errors import ConfigError
from mcpcp.scraping import admits, load_token


def test_it_is_made_once_whoever_asks_first(tmp_path: Path) -> None:
    path = tmp_path / "data" / "scrape.token"
    with ThreadPoolExecutor(8) as threads:
        tokens = set(threads.map(lambda _: load_token(path), range(64)))
    assert len(tokens) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["scrape.token"]


def test_one_that_somebody_put_there_is_used(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a-token-from-a-secret-store\n")
    assert load_token(path) == "a-token-from-a-secret-store"


@pytest.mark.parametrize("content", ["", "\n", "short", "two words that are long", "é" * 20])
def test_a_bad_one_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(ConfigError, match="delete the file to have a new one made"):
        load_token(path)


def test_one_that_can_t_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be read or made"):
        load_token(tmp_path / "file" / "token")


def test_only_the_token_itself_admits() -> None:
    assert admits("a" * 20, "a" * 20)
    assert not admits("a" * 20, "a" * 19)
    assert not admits("a" * 20, None)
    assert not admits("a" * 20, "é")
