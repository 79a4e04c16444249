"""Limits of tokens over all gateways: one atomic look at Redis before each limited call.

Above: the gateway, which has held the call to the limits alone already. What this gateway has in
flight is written as an absolute number, so that a lost message heals with the next one; a gateway
that dies stops counting when its place in `peers` runs out. While Redis is away each gateway
counts for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Final

from mcpcp.errors import Limited
from mcpcp.limits import too_fast, too_many
from mcpcp.policy import Agent, Identity
from mcpcp.state.connection import AWAY, PREFIX, Redis, keep_cancelled
from mcpcp.state.peers import ALIVE

_AGAIN: Final = 1.0
_ADMIT: Final = """
local calls, busy = KEYS[1], KEYS[2]
local me, mine, held = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local most_busy, most_calls, alive = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
if most_busy > 0 then
  local fields = redis.call('HGETALL', busy)
  for i = 1, #fields, 2 do
    if fields[i] ~= me then
      if redis.call('EXISTS', alive .. fields[i]) == 1 then
        mine = mine + tonumber(fields[i + 1])
      else
        redis.call('HDEL', busy, fields[i])
      end
    end
  end
  if mine > most_busy then return {'in_flight', 0} end
end
if most_calls > 0 then
  local now = tonumber(redis.call('TIME')[1])
  local fields, seconds, total = redis.call('HGETALL', calls), {}, 0
  local count = {}
  for i = 1, #fields, 2 do
    local second = tonumber(fields[i])
    if second + 60 < now then
      redis.call('HDEL', calls, fields[i])
    else
      seconds[#seconds + 1] = second
      count[second] = tonumber(fields[i + 1])
      total = total + count[second]
    end
  end
  if total >= most_calls then
    table.sort(seconds)
    local over = total - most_calls + 1
    for _, second in ipairs(seconds) do
      over = over - count[second]
      if over <= 0 then return {'calls_per_minute', second + 61 - now} end
    end
  end
  redis.call('HINCRBY', calls, now, 1)
  redis.call('EXPIRE', calls, 62)
end
redis.call('HSET', busy, me, held)
return {'', 0}
"""
"""Calls of one second leave the minute with its last one, as in `limits`."""


class RedisRates:
    """The counts of every gateway together; `run` brings them what has ended here."""

    def __init__(self, store: Redis, instance: str) -> None:
        self._store = store
        self._instance = instance
        self._admit = store.waiting.register_script(_ADMIT)
        self._in_flight: dict[Identity, int] = {}
        self._ended: set[Identity] = set()
        self._some_ended = asyncio.Event()
        self._order = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def admit(self, agent: Agent) -> AsyncIterator[None]:
        """A context to make a call in; raises Limited where another would be one too many."""
        identity = agent.identity
        busy = self._in_flight[identity] = self._in_flight.get(identity, 0) + 1
        try:
            async with self._order:  # absolute counts must arrive in the order they were true in
                await self._ask(agent, busy)
            yield
        finally:
            self._in_flight[identity] -= 1
            self._ended.add(identity)
            self._some_ended.set()

    async def run(self) -> None:
        """Write down what has ended, until cancelled."""
        while True:
            await self._some_ended.wait()
            self._some_ended.clear()
            try:
                async with self._order:
                    await self._write(tuple(self._ended))
            except AWAY:  # the beat tells of it
                await asyncio.sleep(_AGAIN)
                self._some_ended.set()
            keep_cancelled()

    async def _ask(self, agent: Agent, busy: int) -> None:
        limits, identity = agent.limits, agent.identity
        key = _key(identity)
        try:
            rule, wait = await self._admit(
                keys=[f"{PREFIX}calls:{key}", f"{PREFIX}busy:{key}"],
                args=[
                    self._instance,
                    busy,
                    self._in_flight[identity],
                    limits.in_flight or 0,
                    limits.calls_per_minute or 0,
                    ALIVE,
                ],
            )
        except AWAY:
            rule, wait = "", 0  # the beat tells of it
        keep_cancelled()
        if rule:
            raise _refusal(rule, float(wait), agent)

    async def _write(self, ended: tuple[Identity, ...]) -> None:
        """The counts of these identities as they are now."""
        async with self._store.waiting.pipeline(transaction=False) as commands:
            for identity in ended:
                count, name = self._in_flight[identity], f"{PREFIX}busy:{_key(identity)}"
                if count:
                    commands.hset(name, self._instance, str(count))
                else:
                    commands.hdel(name, self._instance)
            await commands.execute()
        self._ended.difference_update(ended)
        for identity in ended:
            if not self._in_flight[identity]:
                del self._in_flight[identity]


def _refusal(rule: str, wait: float, agent: Agent) -> Limited:
    if rule == "in_flight":
        return too_many(agent.limits.in_flight or 0)
    return too_fast(agent.limits.calls_per_minute or 0, wait)


def _key(identity: Identity) -> str:
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
