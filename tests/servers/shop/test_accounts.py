"""Accounts, sessions and passwords, on a real database."""

from __future__ import annotations

import anyio
import pytest

from servers.shop import accounts, clock
from servers.shop.accounts import Registration, Session
from servers.shop.errors import Refused
from servers.shop.store import Store

pytestmark = pytest.mark.anyio

ADA = Registration("Ada", "ada@example.com", "correct horse", "buyer")


async def login(store: Store, password: str = ADA.password, caller: str = "here") -> Session:
    return await accounts.login(store, ADA.email, password, caller)


async def test_one_of_many_registrations_wins(store: Store) -> None:
    outcomes = []

    async def register() -> None:
        try:
            outcomes.append((await accounts.register(store, ADA))["_id"])
        except Refused as error:
            assert "registered already" in str(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(register)
    assert len(outcomes) == 1
    assert (await login(store)).user == outcomes[0]


async def test_nothing_secret_is_stored(store: Store) -> None:
    user = await accounts.register(store, ADA)
    session = await login(store)
    stored = await store.sessions.find({}, limit=9)
    assert ADA.password not in str(user)
    assert session.token not in str(stored)
    assert user["password"].startswith("$argon2id$")


async def test_a_failed_login_does_not_say_why(store: Store) -> None:
    await accounts.register(store, ADA)
    said = set()
    for email, password in (
        (ADA.email, "wrong"),
        ("nobody@example.com", ADA.password),
        accounts.as_known("not an address", "x"),
    ):
        with pytest.raises(Refused) as caught:
            await accounts.login(store, email, password, "here")
        said.add(str(caught.value))
    assert said == {accounts.WRONG}


async def test_attempts_are_limited_per_account_and_per_caller(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "TRIES_PER_ACCOUNT", 3)
    monkeypatch.setattr(accounts, "TRIES_PER_CALLER", 4)
    monkeypatch.setattr(clock, "now", lambda: 1_700_000_000_000)  # no window ends meanwhile
    await accounts.register(store, ADA)
    for _ in range(3):
        with pytest.raises(Refused, match=accounts.WRONG):
            await login(store, "wrong", "attacker")
    with pytest.raises(Refused, match="too many"):
        await login(store, caller="elsewhere")
    with pytest.raises(Refused, match=accounts.WRONG):
        await accounts.login(store, "bob@example.com", "wrong", "attacker")
    with pytest.raises(Refused, match="too many"):
        await accounts.login(store, "eve@example.com", "wrong", "attacker")


async def test_who_signs_in_well_is_never_limited(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "TRIES_PER_ACCOUNT", 2)
    await accounts.register(store, ADA)
    for _ in range(4):
        await login(store)


async def test_a_session_ends_by_time_by_logout_and_by_a_new_password(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.register(store, ADA)
    first, second, third = [await login(store) for _ in range(3)]
    await accounts.logout(store, first.token)
    with pytest.raises(Refused, match="login_user"):
        await accounts.signed_in(store, first.token)
    who = await accounts.signed_in(store, second.token, "buyer")
    await accounts.update(store, who, {"password": "another horse"})
    await accounts.end_other_sessions(store, who, second.token)
    with pytest.raises(Refused, match="login_user"):
        await accounts.signed_in(store, third.token)
    with pytest.raises(Refused, match=accounts.WRONG):
        await login(store)
    later = clock.now() + accounts.SESSION_HOURS * 3_600_000 + 1
    monkeypatch.setattr(clock, "now", lambda: later)
    with pytest.raises(Refused, match="expired"):
        await accounts.signed_in(store, second.token)
    await accounts.forget_expired(store)
    assert await store.sessions.find({}, limit=9) == []


async def test_a_new_password_ends_a_session_that_is_just_being_made_with_the_old(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.register(store, ADA)
    mine = await login(store)
    matches = accounts.password_matches

    async def matches_and_then_it_changes(known: str | None, password: str) -> bool:
        found = await matches(known, password)
        monkeypatch.setattr(accounts, "password_matches", matches)
        who = await accounts.signed_in(store, mine.token)
        await accounts.update(store, who, {"password": "another horse"})
        await accounts.end_other_sessions(store, who, mine.token)
        return found

    monkeypatch.setattr(accounts, "password_matches", matches_and_then_it_changes)
    with pytest.raises(Refused, match=accounts.WRONG):
        await login(store)
    assert len(await store.sessions.find({}, limit=9)) == 1
    await login(store, "another horse")


async def test_two_who_sign_in_at_once_make_an_old_hash_anew_and_both_are_in(store: Store) -> None:
    from argon2 import PasswordHasher

    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(ADA.password)
    await store.users.insert(accounts.document(ADA, weak))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(login, store)
    assert len(await store.sessions.find({}, limit=9)) == 3


async def test_a_session_of_another_role_is_refused(store: Store) -> None:
    await accounts.register(store, ADA)
    session = await login(store)
    with pytest.raises(Refused, match=r"for a seller, and the session is a buyer's: .*login_user"):
        await accounts.signed_in(store, session.token, "seller")


async def test_an_old_hash_is_made_anew(store: Store) -> None:
    from argon2 import PasswordHasher

    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(ADA.password)
    user = accounts.document(ADA, weak)
    await store.users.insert(user)
    await login(store)
    found = await store.users.get(user["_id"])
    assert found
    assert found["password"] != weak
    assert not accounts.needs_rehash(found["password"])
    await login(store)
