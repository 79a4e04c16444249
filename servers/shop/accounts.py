"""Accounts, sessions and passwords.

A session is a random secret of which the database has only the hash. A failed login says the same,
and takes as long, whether the account exists or not.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from anyio import CapacityLimiter, to_thread

from servers.shop import clock, marks, text
from servers.shop.errors import Refused

if TYPE_CHECKING:
    from argon2 import PasswordHasher

    from servers.shop.store import Document, Store

Role = Literal["buyer", "seller"]

SESSION_HOURS = 12
WINDOW_MINUTES = 15
TRIES_PER_ACCOUNT = 10
TRIES_PER_CALLER = 60
HASHES_AT_ONCE = 4
"""Each takes 64 MiB and a processor: many sign-ins at once wait for each other."""

SIGN_IN = "sign in with shop_auth's login_user and use the session that it returns"
WRONG = "e-mail or password is wrong: check both; register_user makes an account"
NO_SESSION = f"the session is unknown, has expired or was ended: {SIGN_IN}"

_MINUTE = 60_000


@dataclass(frozen=True, slots=True)
class Registration:
    """What a new account is made of, checked and normalized."""

    name: str
    email: str
    password: str
    role: Role
    phone: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in, and until when in milliseconds; `token` only when it was just made."""

    user: str
    name: str
    role: Role
    expires: int
    token: str = ""


async def register(store: Store, new: Registration) -> Document:
    """The new account's document; Refused where the e-mail has one already."""
    user = document(new, await hash_password(new.password))
    if not await store.users.insert(user, durable=True):
        raise Refused("this e-mail address is registered already: sign in with login_user")
    return user


def document(new: Registration, hashed: str) -> Document:
    """An account as the database has it."""
    return {
        "_id": marks.new_id("user"),
        "name": new.name,
        "email": new.email,
        "role": new.role,
        "password": hashed,
        "phone": new.phone,
        "address": new.address,
        "created": clock.now(),
        "balance": 0,
        "marks": [],
        "marked": 0,
    }


async def is_known(store: Store, name: str) -> bool:
    """Whether somebody of exactly that name has an account."""
    return await store.users.first({"name": name}) is not None


async def login(store: Store, email: str, password: str, caller: str) -> Session:
    """A new session; `caller` is where the attempt comes from, for the limit."""
    account, origin = _counters(email, caller)
    await _count_attempt(store, account, TRIES_PER_ACCOUNT)
    await _count_attempt(store, origin, TRIES_PER_CALLER)
    user = await store.users.first({"email": email})
    if not await password_matches(user["password"] if user else None, password) or user is None:
        raise Refused(WRONG)
    for key in (account, origin):
        await store.attempts.count_up(key, -1, _window_end())
    if needs_rehash(user["password"]):
        update = {"$set": {"password": await hash_password(password)}}
        await store.users.change({"_id": user["_id"], "password": user["password"]}, update)
    session = await _open_session(store, user)
    # A new password ends all sessions: also one that began with the old, and was made after that.
    now = await store.users.get(user["_id"])
    if now is None or not (
        now["password"] == user["password"] or await password_matches(now["password"], password)
    ):
        await logout(store, session.token)
        raise Refused(WRONG)
    return session


def as_known(email: str, password: str) -> tuple[str, str]:
    """Both as they were registered; what can't be an account's is looked for too, in vain."""
    try:
        return text.email(email), text.password(password)
    except ValueError:
        return "nobody", text.password(password)


async def logout(store: Store, token: str) -> None:
    """End the session; one that is over already is fine."""
    await store.sessions.remove({"_id": _hashed(token)})


async def signed_in(store: Store, token: str, role: Role | None = None) -> Session:
    """Whose session it is; Refused where it is none, is over, or is of another role."""
    found = await store.sessions.get(_hashed(token))
    if found is None or found["expires"] <= clock.now():
        raise Refused(NO_SESSION)
    if role is not None and found["role"] != role:
        raise Refused(f"this is for a {role}, and the session is a {found['role']}'s: {SIGN_IN}")
    return Session(found["user"], found["name"], found["role"], found["expires"])


async def update(store: Store, session: Session, changes: Mapping[str, Any]) -> Document:
    """Set the given details; a new password ends all other sessions of the user."""
    fields = dict(changes)
    if "password" in fields:
        fields["password"] = await hash_password(fields["password"])
    if fields and not await store.users.change(
        {"_id": session.user}, {"$set": fields}, durable=True
    ):
        raise Refused(NO_SESSION)
    user = await store.users.get(session.user)
    if user is None:
        raise Refused(NO_SESSION)
    return user


async def end_other_sessions(store: Store, session: Session, token: str) -> None:
    """Sign the user out everywhere but here."""
    await store.sessions.remove({"user": session.user, "_id": {"$ne": _hashed(token)}})


async def forget_expired(store: Store) -> None:
    """Remove sessions and attempt counters that are over."""
    over = {"expires": {"$lte": clock.now()}}
    await store.sessions.remove(over)
    await store.attempts.remove(over)


async def _open_session(store: Store, user: Mapping[str, Any]) -> Session:
    token = "s_" + secrets.token_urlsafe(32)
    expires = clock.now() + SESSION_HOURS * 60 * _MINUTE
    session = {
        "_id": _hashed(token),
        "user": user["_id"],
        "name": user["name"],
        "role": user["role"],
        "expires": expires,
    }
    await store.sessions.insert(session)
    return Session(user["_id"], user["name"], user["role"], expires, token)


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# Attempts


def _counters(email: str, caller: str) -> tuple[str, str]:
    window = clock.now() // (WINDOW_MINUTES * _MINUTE)
    names = (f"account {email}", f"caller {caller}")
    first, second = (f"{_hashed(name)}-{window}" for name in names)
    return first, second


async def _count_attempt(store: Store, key: str, limit: int) -> None:
    """Counted before the password is looked at, so that attempts at once do not slip through."""
    if await store.attempts.count_up(key, 1, _window_end()) > limit:
        raise Refused(f"too many attempts to sign in: wait {WINDOW_MINUTES} minutes")


def _window_end() -> int:
    return clock.now() + WINDOW_MINUTES * _MINUTE


# Passwords


@functools.cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # 0.1 s that only who signs in has to wait for

    return PasswordHasher()


@functools.cache
def _hashing() -> CapacityLimiter:
    return CapacityLimiter(HASHES_AT_ONCE)


@functools.cache
def _nobodys_hash() -> str:
    return _hasher().hash(secrets.token_hex(16))


async def hash_password(password: str) -> str:
    """In a thread, for it is meant to take long."""
    return await to_thread.run_sync(lambda: _hasher().hash(password), limiter=_hashing())


async def password_matches(known: str | None, password: str) -> bool:
    """Whether the password is that of the hash; None takes as long and is false."""

    def verify() -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        nobodys = _nobodys_hash()  # made by whoever comes first, known or not
        try:
            return _hasher().verify(known or nobodys, password)
        except (VerificationError, InvalidHashError):
            return False

    return await to_thread.run_sync(verify, limiter=_hashing()) and known is not None


def needs_rehash(known: str) -> bool:
    """Whether the hash was made with weaker parameters than those of today."""
    return _hasher().check_needs_rehash(known)
