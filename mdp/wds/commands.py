"""What a client's messages do, and what they are answered, in both versions of the protocol."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import structlog

from mdp.cache.base import Cache
from mdp.config import WdsConfig
from mdp.wds import protocol, protocol2
from mdp.wds.access import Access, Denied, Session
from mdp.wds.client import Client
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import text_frame
from mdp.wds.hub import Hub
from mdp.wds.values import entry_json
from mdp.wds.views import envelope

log = structlog.get_logger(__name__)


class Commands(ABC):
    """What the versions have in common: rates, logins, refusals."""

    def __init__(
        self, config: WdsConfig, cache: Cache, hub: Hub, access: Access, counters: WdsCounters
    ) -> None:
        self._config = config
        self._cache = cache
        self._hub = hub
        self._access = access
        self._counters = counters

    async def obey(self, client: Client, session: Session, data: str | bytes) -> None:
        """Do what a message says and answer it; one that comes too soon is refused unread."""
        verdict = self._access.act(session)
        if verdict == "go":
            await self._do(client, session, data)
            return
        self.refuse(client, protocol.Refusal("slow_down"))
        if verdict == "close":
            self._counters.close(protocol.TOO_MANY_ACTIONS)
            client.close(protocol.TOO_MANY_ACTIONS, "too many messages a second")

    @abstractmethod
    async def _do(self, client: Client, session: Session, data: str | bytes) -> None: ...

    def refuse(self, client: Client, refusal: protocol.Refusal | protocol2.Refusal) -> None:
        """Answer with an error, and count it."""
        self._counters.refuse(refusal.code or "invalid_action")
        client.answer(text_frame(refusal.json()))

    async def begin(self, client: Client, session: Session, data: str | bytes) -> bool:
        """Obey the first message where authentication is on; whether the client is logged in.

        One that is no `auth`, or fails, ends the connection.
        """
        command = self._parse(data)
        if isinstance(command, protocol.Auth):
            return await self._log_in(client, session, command)
        if isinstance(command, protocol2.Auth):
            return await self._log_in(client, session, command.login, command.id)
        self.refuse(client, protocol2.Refusal("unauthorized", "", getattr(command, "id", None)))
        self._counters.auth_failures += 1
        client.close(protocol.UNAUTHORIZED, "authorization failed")
        return False

    @abstractmethod
    def _parse(self, data: str | bytes) -> object: ...

    async def _log_in(
        self, client: Client, session: Session, auth: protocol.Auth, number: object = None
    ) -> bool:
        try:
            await self._access.login(session, auth.api_key, auth.token)
        except Denied as denied:
            if denied.reason == "unauthorized":
                answer = protocol.invalid_token(str(denied)) if auth.token else protocol.INVALID_KEY
                code, reason = protocol.UNAUTHORIZED, "authorization failed"
            else:
                answer, reason = protocol.error("unauthorized", str(denied)), str(denied)
                too_many = denied.reason == "too_many"
                code = protocol.TOO_MANY_CONNECTIONS if too_many else protocol.TOO_MANY_LOGINS
            client.answer(text_frame(protocol2.numbered(answer, number)))
            self._counters.close(code)
            client.close(code, reason)
            return False
        client.answer(text_frame(protocol2.numbered(protocol.AUTHORIZED, number)))
        return True


class Commands1(Commands):
    """Version 1."""

    def _parse(self, data: str | bytes) -> object:
        return protocol.parse(data)

    async def _do(self, client: Client, session: Session, data: str | bytes) -> None:
        command = protocol.parse(data)
        match command:
            case protocol.Subscribe(feed) | protocol.Get(feed) if not session.permits(feed):
                detail = f"the key or token does not permit all of {feed!a}"
                self.refuse(client, protocol.Refusal("forbidden", detail))
            case protocol.Subscribe(feed):
                if feed not in client.patterns and len(client.patterns) >= self._config.max_subscriptions:
                    detail = f"{self._config.max_subscriptions} subscriptions at most; unsubscribe first"
                    self.refuse(client, protocol.Refusal("too_many_subscriptions", detail))
                else:
                    self._hub.subscribe(client, feed)
                    client.answer(text_frame(protocol.subscribed(feed)))
            case protocol.Unsubscribe(feed):
                self._hub.unsubscribe(client, feed)
                client.answer(text_frame(protocol.unsubscribed(feed)))
            case protocol.Get(key, limit):
                await self._get(client, key, limit)
            case protocol.Auth() if self._config.auth_enabled:  # again: a new token before the old one ends
                await self._log_in(client, session, command)
            case protocol.Auth():
                client.answer(text_frame(protocol.AUTHORIZED))
            case protocol.Refusal():
                self.refuse(client, command)

    async def _get(self, client: Client, key: str, limit: int) -> None:
        try:
            data = await entry_json(await self._cache.get(key, limit), limit)
        except Exception as error:
            # The client learns that it failed, not how: messages of back ends name hosts and keys.
            log.warning("wds_get_failed", key=key, error=type(error).__name__)
            self.refuse(client, protocol.Refusal("unavailable"))
            return
        client.answer(text_frame(protocol.got(key, data)))


class Commands2(Commands):
    """Version 2."""

    def _parse(self, data: str | bytes) -> object:
        return protocol2.parse(data)

    async def _do(self, client: Client, session: Session, data: str | bytes) -> None:
        command = protocol2.parse(data)
        permits = session.permits
        match command:
            case protocol2.Subscribe(feeds) if not all(map(permits, feeds)):
                refused = ", ".join(ascii(feed) for feed in feeds if not permits(feed))[:500]
                self.refuse(client, _forbidden(refused, command.id))
            case protocol2.Get(feed) if not permits(feed):
                self.refuse(client, _forbidden(ascii(feed), command.id))
            case protocol2.Subscribe():
                await self._look(client, command)
            case protocol2.Unsubscribe(feeds, number):
                for feed in feeds:
                    self._hub.look_away(client, feed)
                client.answer(text_frame(protocol2.unsubscribed(feeds, number)))
            case protocol2.Get():
                await self._get(client, command)
            case protocol2.Auth(login, number) if self._config.auth_enabled:
                await self._log_in(client, session, login, number)
            case protocol2.Auth():
                client.answer(text_frame(protocol2.numbered(protocol.AUTHORIZED, command.id)))
            case protocol2.Refusal():
                self.refuse(client, command)

    async def _look(self, client: Client, command: protocol2.Subscribe) -> None:
        new = sum(feed not in client.views for feed in command.feeds)
        if len(client.views) + new > self._config.max_subscriptions:
            detail = f"{self._config.max_subscriptions} subscriptions at most; unsubscribe first"
            self.refuse(client, protocol2.Refusal("too_many_subscriptions", detail, command.id))
            return
        client.answer(text_frame(protocol2.subscribed(command.feeds, command.id)))
        for feed in command.feeds:
            try:
                resumed = await self._hub.look(client, feed, command.options, command.resume)
            except Exception as error:
                log.warning("wds_subscribe_failed", feed=feed, error=type(error).__name__)
                self.refuse(client, protocol2.Refusal("unavailable", "", command.id))
                continue
            if not resumed:
                client.answer(text_frame(protocol2.resync(feed, command.id)))

    async def _get(self, client: Client, command: protocol2.Get) -> None:
        feed = command.feed
        try:
            entry = await self._cache.get(feed, command.limit)
            data = await entry_json(entry, command.limit)
        except Exception as error:
            log.warning("wds_get_failed", key=feed, error=type(error).__name__)
            self.refuse(client, protocol2.Refusal("unavailable", "", command.id))
            return
        epoch, seq = self._hub.place(feed) if entry is None else (entry.epoch, entry.seq)
        body = envelope(feed, epoch, seq, time.time_ns() // 1_000_000, "get", data, number=command.id)
        client.answer(text_frame(body))


def _forbidden(feeds: str, number: object) -> protocol2.Refusal:
    return protocol2.Refusal("forbidden", f"the key or token does not permit all of {feeds}", number)
