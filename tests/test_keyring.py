"""The key ring on disk."""

from __future__ import annotations

import json
import multiprocessing
import stat
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from mcpcp import keyring
from mcpcp.errors import KeyRingError

BITS = 2048


def test_the_first_start_makes_a_strong_private_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    kid = keyring.ensure(keys)
    assert [(k.kid, k.bits, k.active, k.signs) for k in keyring.list_keys(keys)] == [
        (kid, 3072, True, True)
    ]
    if sys.platform != "win32":
        assert stat.S_IMODE((keys / f"{kid}.key.pem").stat().st_mode) == 0o600
    entry = json.loads((keys / "jwks.json").read_text())["keys"][0]
    assert entry.keys() == {"kid", "alg", "use", "kty", "n", "e"}


def test_a_ring_that_is_there_is_left_alone(tmp_path: Path) -> None:
    keyring.ensure(tmp_path, bits=BITS)
    before = (tmp_path / "jwks.json").read_bytes()
    assert keyring.ensure(tmp_path, bits=BITS) is None
    assert (tmp_path / "jwks.json").read_bytes() == before


def _ensure(path: Path) -> str | None:
    return keyring.ensure(path, bits=BITS)


def test_many_first_starts_make_one_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = pool.map(_ensure, [tmp_path / "keys"] * 8, chunksize=1)
    assert len([kid for kid in made if kid]) == 1
    assert len(list((tmp_path / "keys").glob("*.pem"))) == 1


def test_rotation_signs_with_the_new_and_checks_with_both(tmp_path: Path) -> None:
    first = keyring.ensure(tmp_path, bits=BITS)
    second = keyring.rotate(tmp_path, bits=BITS)
    assert list(keyring.load_public(tmp_path)) == [second, first]
    assert keyring.load_signing(tmp_path).kid == second
    assert [p.name for p in tmp_path.glob("*.pem")] == [f"{second}.key.pem"]


def test_rotation_can_retire_the_old_at_once(tmp_path: Path) -> None:
    keyring.ensure(tmp_path, bits=BITS)
    assert list(keyring.load_public(tmp_path)) != [keyring.rotate(tmp_path, retire=True, bits=BITS)]


def test_the_active_key_can_not_be_retired(tmp_path: Path) -> None:
    kid = keyring.ensure(tmp_path, bits=BITS)
    assert kid is not None
    with pytest.raises(KeyRingError, match="is the active key"):
        keyring.retire(tmp_path, kid)
    with pytest.raises(KeyRingError, match="has no key 'x'"):
        keyring.retire(tmp_path, "x")


def test_a_crash_before_the_jwks_is_replaced_leaves_a_ring_that_works(tmp_path: Path) -> None:
    kid = keyring.ensure(tmp_path, bits=BITS)
    jwks = (tmp_path / "jwks.json").read_bytes()
    keyring.rotate(tmp_path / "other", bits=BITS)
    for orphan in (tmp_path / "other").glob("*.pem"):
        orphan.rename(tmp_path / orphan.name)
    assert keyring.load_signing(tmp_path).kid == kid
    assert (tmp_path / "jwks.json").read_bytes() == jwks


def _write_jwk(folder: Path, changes: dict[str, object] | None = None, bits: int = BITS) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    entry = {"kid": "k1", **RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), **(changes or {})}
    entry.pop("key_ops", None)
    (folder / "jwks.json").write_text(json.dumps({"keys": [entry]}))


def test_a_foreign_public_key_is_read(tmp_path: Path) -> None:
    _write_jwk(tmp_path)
    assert list(keyring.load_public(tmp_path)) == ["k1"]
    assert not keyring.can_sign(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"kty": "EC"}, {"n": None}, {"alg": "HS256"}, {"kid": "../x"}, {"kid": 1}, {"d": "x"}],
)
def test_keys_that_are_no_rsa_public_keys_are_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    _write_jwk(tmp_path, changes)
    with pytest.raises(KeyRingError):
        keyring.load_public(tmp_path)


def test_a_weak_key_is_refused(tmp_path: Path) -> None:
    _write_jwk(tmp_path, bits=1024)
    with pytest.raises(KeyRingError, match="too weak"):
        keyring.load_public(tmp_path)


def test_two_keys_of_one_kid_are_refused(tmp_path: Path) -> None:
    _write_jwk(tmp_path)
    entry = json.loads((tmp_path / "jwks.json").read_text())["keys"][0]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [entry, entry]}))
    with pytest.raises(KeyRingError, match="two keys of one kid"):
        keyring.load_public(tmp_path)


def test_a_private_key_of_another_ring_is_refused(tmp_path: Path) -> None:
    kid = keyring.ensure(tmp_path / "a", bits=BITS)
    other = keyring.ensure(tmp_path / "b", bits=BITS)
    wrong = (tmp_path / "b" / f"{other}.key.pem").read_bytes()
    (tmp_path / "a" / f"{kid}.key.pem").write_bytes(wrong)
    with pytest.raises(KeyRingError, match="not the private half"):
        keyring.load_signing(tmp_path / "a")


@pytest.mark.skipif(sys.platform == "win32", reason="unix modes")
def test_a_private_key_that_others_can_read_is_complained_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kid = keyring.ensure(tmp_path, bits=BITS)
    (tmp_path / f"{kid}.key.pem").chmod(0o644)
    keyring.load_signing(tmp_path)
    assert "can be read by others" in caplog.text
