"""Elements of the sweep page as HTML strings, made by the macros of all pages."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from fer_jax.apps.pages.charts import Chart, Phase
from fer_jax.apps.pages.plots import draw
from fer_jax.apps.pages.render import ENVIRONMENT, render

_MACROS: Any = ENVIRONMENT.get_template("macros.html").module


class Section(NamedTuple):
  """A part of the page: its anchor, its heading in plain text, and its body as HTML."""

  anchor: str
  title: str
  body: str


def document(title: str, header: str, sections: Sequence[Section]) -> str:
  """Returns the page with a title in plain text, a header as HTML, and sections."""
  bodies = {section.anchor: Markup(section.body) for section in sections}
  headings = {section.anchor: section.title for section in sections}
  return render("sweep.html", title=title, header=Markup(header), sections=headings, bodies=bodies)


def said(text: str) -> str:
  """Returns the escaped text, marked if it stands for a missing value."""
  return _MACROS.or_missing(text)


def facts(rows: Iterable[tuple[str, str, str]]) -> str:
  """Returns a definition list of triples (name, value, small print) in plain text."""
  return f'<dl class="facts">{"".join(_MACROS.fact(*row) for row in rows)}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a table with column names in plain text and cells as HTML."""
  lines = [_MACROS.row(Markup(heading), map(Markup, values)) for heading, *values in rows]
  return _MACROS.table(head, caller=lambda: Markup("").join(lines))


def bullets(texts: Iterable[str]) -> str:
  """Returns plain texts as a bulleted list."""
  return _MACROS.bullets(texts)


def chart_figure(chart: Chart, phases: Sequence[Phase]) -> str:
  """Returns a chart with its caption and legend."""
  return _MACROS.chart_figure(chart, draw(chart, phases))
