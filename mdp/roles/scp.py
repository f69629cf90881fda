"""The pages in a process of their own. They need no Redis: what they show, browsers get from `wds`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from mdp.roles.parts import Role, Shared
from mdp.scp.server import ControlPlane
from mdp.stage import Stage


class ScpRole(Role):
    """See the module.

    Attributes:
        pages: The server.
    """

    name: ClassVar[str] = "scp"

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        config = shared.config
        self.pages = ControlPlane(config.scp, wds_port=self._wds_port, auth_required=config.wds.auth_enabled)

    def stages(self) -> Iterable[Stage]:
        yield self.pages

    def ports(self) -> Mapping[str, int]:
        return {"scp": self.pages.port}

    def _wds_port(self) -> int:
        """Of the data service in this process; of one elsewhere as configured, at the page's host."""
        wds = self.shared.roles.get("wds")
        return (wds.ports().get("wds", 0) if wds is not None else 0) or self.shared.config.wds.port
