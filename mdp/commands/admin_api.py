"""Requests of the commands to the admin API of a running mdp."""

from __future__ import annotations

from typing import Any

import aiohttp

TIMEOUT_SECONDS = 10.0


class AdminError(Exception):
    """The process could not be asked, or refused. The message says why and what to do.

    Attributes:
        answer: The refusal's object as it came; empty where there is none.
    """

    def __init__(self, reason: str, answer: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.answer = answer or {}


def session_for(token: str) -> aiohttp.ClientSession:
    """A session that sends a token, where there is one; to be closed."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS))


async def call(
    session: aiohttp.ClientSession, url: str, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One request; the answer's object.

    Args:
        session: Of `session_for`.
        url: `http://host:port` of the admin API.
        method: GET or POST.
        path: From the root on.
        body: Sent as JSON.

    Raises:
        AdminError: See there.
    """
    try:
        async with session.request(method, url + path, json=body) as response:
            text = await response.text()
            try:
                answer = await response.json(content_type=None)
            except ValueError:
                answer = None
            if response.status >= 400:
                reason = answer.get("error") if isinstance(answer, dict) else None
                hint = "; give the token of admin.token" if response.status in (401, 403) else ""
                raise AdminError(
                    f"{url}{path} answered {response.status}: {reason or text[:200].strip()}{hint}",
                    answer if isinstance(answer, dict) else None,
                )
            return answer if isinstance(answer, dict) else {}
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise AdminError(
            f"cannot reach the admin API at {url} ({str(error) or type(error).__name__}); "
            "is `mdp run` running there?"
        ) from None
