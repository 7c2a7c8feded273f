"""What a token-reduction method is: a pure function from evidence to a map, and some facts about it."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pomt_edge import catalogue
from pomt_edge.errors import UserError
from pomt_edge.reduce import METHODS
from pomt_edge.reduce.token_map import Evidence, TokenMap

PROPORTIONAL = "proportional_attention"


@dataclass(frozen=True)
class Method:
    """A file of `pomt_edge.reduce.tokens`: its function `reduce` and the facts beside it."""

    name: str
    """With its options, such as 'pomt:score=cls'."""
    reduce: Callable[[Evidence, int], TokenMap]
    """From the evidence and the number of tokens to remove to the map that removes exactly so many."""
    most: Callable[[int], int]
    """From the tokens behind the prefix to the most that one block can remove of them."""
    needs_attention: bool
    """Whether the reducing block has to compute its attention matrix explicitly."""
    needs_class_token: bool
    """Whether the score reads the first prefix token."""
    merges: bool
    """Whether tokens are merged by their sizes, which are then kept from block to block."""
    proportional_attention: bool
    """Whether attention counts a merged token for all it stands for, from the first merge on."""


def load(name: str, **options: Any) -> Method:
    """A method by its file's name, its options bound; they can be in the name: 'pomt:score=cls'.

    Raises:
        UserError: no such method, no such option of it, or no such value; the message lists the known ones.
    """
    name, _, written = name.partition(":")
    module = catalogue.load(METHODS, name, "method")
    options = _read(name, module, written) | options
    known = _options(module)
    for option, value in options.items():
        if option not in known:
            raise UserError(f"unknown option '{option}' of method {name}; known: {', '.join(known) or 'none'}")
        _check(name, option, value, known[option], getattr(module, "VALUES", {}).get(option))
    # margin=1 and margin=1.0 are one method, of one name.
    options = {option: type(known[option])(value) for option, value in options.items()}
    given = {option: value for option, value in options.items() if value != known[option]}
    own = {option: value for option, value in given.items() if option != PROPORTIONAL}
    settings = known | options
    return Method(
        name=":".join(filter(None, [name, ",".join(f"{option}={value}" for option, value in sorted(given.items()))])),
        reduce=functools.partial(module.reduce, **own) if own else module.reduce,
        most=module.most,
        needs_attention=_fact(module, "needs_attention", settings),
        needs_class_token=_fact(module, "needs_class_token", settings),
        merges=getattr(module, "MERGES", False),
        proportional_attention=bool(settings.get(PROPORTIONAL, False)),
    )


def _options(module: ModuleType) -> dict[str, Any]:
    """A method's options and their defaults."""
    parameters = list(inspect.signature(module.reduce).parameters.values())[2:]
    options = {parameter.name: parameter.default for parameter in parameters}
    if getattr(module, "MERGES", False):
        options[PROPORTIONAL] = module.PROPORTIONAL_ATTENTION
    return options


def _fact(module: ModuleType, name: str, settings: dict[str, Any]) -> bool:
    fact = getattr(module, name, None)
    return bool(fact(settings)) if fact else False


def _read(name: str, module: ModuleType, text: str) -> dict[str, Any]:
    """Options as they are typed: 'score=cls,margin=0.9'."""
    known = _options(module)
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        option, equals, value = part.partition("=")
        if not equals:
            raise UserError(
                f"method {name}: '{part}' is no option; expected NAME=VALUE, of {', '.join(known) or 'none'}"
            )
        found[option] = _typed(name, option, value, known.get(option))
    return found


def _typed(name: str, option: str, value: str, default: Any) -> Any:
    kinds: dict[type, Callable[[str], Any]] = {bool: _boolean, int: int, float: float}
    try:
        return kinds.get(type(default), str)(value)
    except (KeyError, ValueError):
        raise UserError(f"method {name}: {option}={value}; expected a value such as {default}") from None


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _check(name: str, option: str, value: Any, default: Any, allowed: tuple[Any, ...] | None) -> None:
    if allowed is not None:
        if value not in allowed:
            raise UserError(f"method {name}: {option}={value!r}; expected one of {', '.join(map(str, allowed))}")
    elif not _is_like(value, default):
        raise UserError(f"method {name}: {option}={value!r}; expected a value such as {default}")


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, numbers.Real) and math.isfinite(value)
    return isinstance(value, numbers.Integral if isinstance(default, int) else type(default))
