"""Pages from the templates in ``app/templates``; what is put into one is escaped."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES: Final = Path(__file__).parents[1] / "templates"
# Characters that neither HTML nor XML may hold, escaped or not.
FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(name: str, **values: object) -> str:
    """The text of a template. Raises ``jinja2.TemplateError`` for a name or value that lacks."""
    return _environment().get_template(name).render(values)


def cut(value: object, most: int = 400) -> str:
    """The value as text of at most ``most`` characters."""
    text = str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_permitted,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["cut"] = cut
    return environment


def _permitted(value: Any) -> Any:
    # A string of markup is a subclass of str and clean already.
    return FORBIDDEN.sub("\ufffd", value) if type(value) is str else value
