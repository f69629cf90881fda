"""Looking up the parts a user may add: by short name (entry points) or `package.module:Class`."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points
from typing import Any


class PluginError(Exception):
    """A configured part cannot be loaded: one line that says which, why, and what exists."""


def load(group: str, name: str, base: type, *, key: str = "") -> Any:
    """The class of a part.

    Args:
        group: Entry point group, e.g. `mdp.analyzers`.
        name: A name of that group, or `package.module:Class`.
        base: What the class must derive from.
        key: The setting that names the part, for errors; the group where empty.

    Raises:
        PluginError: There is none of that name, it does not import, or it is something else.
    """
    where = key or group
    known = {point.name: point for point in entry_points(group=group)}
    if name not in known and ":" not in name:
        allowed = ", ".join([*sorted(known), "or package.module:Class"])
        raise PluginError(f'{where}: found "{name}"; allowed: {allowed}')
    try:
        if name in known:
            found = known[name].load()
        else:
            module, _, attribute = name.partition(":")
            if "" not in sys.path:
                sys.path.insert(0, "")  # a module beside the user's config.toml
            found = getattr(importlib.import_module(module), attribute)
    except Exception as exc:  # a user's module may raise anything, a SyntaxError above all
        why = " ".join(f"{type(exc).__name__}: {exc}".split())
        raise PluginError(f'{where}: cannot load "{name}": {why}') from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PluginError(f'{where}: "{name}" is no {base.__module__}:{base.__qualname__}')
    return found
