"""The file name is the registry: a method, an engine, a family or a device is known by being a file."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from types import ModuleType

from pomt_edge.errors import UserError


def names(package: str) -> list[str]:
    """The entries of a folder of modules, such as `pomt_edge.engines`; nothing is imported but the folder."""
    folder = importlib.import_module(package)
    return sorted(info.name for info in pkgutil.iter_modules(folder.__path__) if not info.name.startswith("_"))


def load(package: str, name: str, kind: str) -> ModuleType:
    """Import one entry.

    Raises:
        UserError: no such entry; the message lists the known ones, the nearest first.
    """
    check(name, names(package), kind)
    return importlib.import_module(f"{package}.{name}")


def check(name: str, known: Sequence[str], kind: str) -> None:
    """Raise a UserError that lists the known names, the nearest first, unless `name` is one of them."""
    if name not in known:
        raise UserError(f"unknown {kind} '{name}'; known: {listed(name, known)}")


def listed(name: str, known: Sequence[str]) -> str:
    """The nearest known names, for a message; '…' behind them says that there are more."""
    shown = nearest(name, known)
    return ", ".join([*shown, "…"] if len(shown) < len(known) else shown)


def nearest(name: str, known: Iterable[str], limit: int = 8) -> list[str]:
    """The known names in the order of their likeness to `name`, at most `limit`."""
    pool = sorted(known)
    close = difflib.get_close_matches(name, pool, n=limit, cutoff=0.4)
    return (close or pool)[:limit]
