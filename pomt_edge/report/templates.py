"""The page's parts that lie beside this file, and the templates made of them."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined


def text(name: str) -> str:
    """The file beside this one, such as a style sheet, to be inlined."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def templates() -> Environment:
    """Every value is escaped, and one that is missing is an error."""
    return Environment(
        loader=FunctionLoader(text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
