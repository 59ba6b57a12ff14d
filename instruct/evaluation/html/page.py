"""`report.html`: one page that a person opens; nothing is loaded, and it may be printed.

What models and users wrote is text on it, whatever it looks like: Jinja escapes every value.
"""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from instruct.evaluation.html.panels import panels_of, samples_of
from instruct.evaluation.verdict import checks, headline, independent
from instruct.plain_text import plain

HERE = Path(__file__).parent


def _shown(value):
    """Characters that act are written as escapes; the template's own HTML stays."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _inline(name: str) -> Markup:
    # ours, not data: as it is
    return Markup((HERE / name).read_text(encoding="utf-8"))


def html(report: dict, answers: dict[str, list[dict]], base: str | None) -> str:
    """The page of a report.

    Args:
        report: as `report.json` holds it.
        answers: {model: rows}.
        base: what is said of the base model, as plain text.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    script = _inline("page.js")
    # the only script that may run, whatever else got onto the page
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        script=script,
        script_hash=f"sha256-{digest}",
        style=_inline("page.css"),
        verdict=headline(report),
        checks=checks(report),
        independent=independent(report),
        base=base,
        panels=panels_of(report),
        samples=samples_of(report, answers),
    )
