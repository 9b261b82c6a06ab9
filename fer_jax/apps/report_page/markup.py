"""HTML elements that the sections of a page share. These functions escape the plain text that they are given."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

from fer_jax.apps.formatting import NOT_MEASURED
from fer_jax.apps.report_page.figures import Chart, Line, Phase, draw
from fer_jax.apps.report_page.style import CSS


@dataclass(frozen=True)
class Section:
  """A titled part of the page.

  Attributes:
    anchor: Identifier of the element, by which the page links to it.
    title: Heading, plain text.
    body: Content, HTML.
  """

  anchor: str
  title: str
  body: str

  def html(self) -> str:
    """Returns the section as a `<section>` element."""
    return f'<section id="{self.anchor}">\n<h2>{escape(self.title)}</h2>\n{self.body}\n</section>'


def document(title: str, header: str, sections: Sequence[Section]) -> str:
  """Returns a complete HTML page: the header, links to the sections, and the sections.

  Args:
    title: Title of the page, plain text.
    header: Content above the links, HTML.
    sections: Sections in order.
  """
  links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections)
  return "\n".join(
    [
      '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f"<title>{escape(title)}</title>\n<style>\n{CSS}\n</style>\n</head>\n<body>",
      header,
      f'<nav aria-label="Sections">{links}</nav>',
      "<main>",
      *(section.html() for section in sections),
      "</main>\n</body>\n</html>\n",
    ]
  )


def said(text: str) -> str:
  """Returns the escaped text; the text for a value that is not measured yet is marked with a CSS class."""
  return f'<span class="missing">{escape(text)}</span>' if text == NOT_MEASURED else escape(text)


def facts(rows: Iterable[tuple[str, str, str]]) -> str:
  """Returns a definition list.

  Args:
    rows: Triples (name, value, small print below the value), plain text; empty small print is left out.
  """
  items = []
  for name, value, small in rows:
    below = f"<small>{escape(small)}</small>" if small else ""
    items.append(f"<div><dt>{escape(name)}</dt><dd>{said(value)}{below}</dd></div>")
  return f'<dl class="facts">{"".join(items)}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: int | None = None) -> str:
  """Returns a table with row headings in the first column and right-aligned values in the others.

  Args:
    head: Column names, plain text.
    rows: Cells of each row, HTML; the first cell is the row's heading.
    marked: Index of a row to emphasize; None emphasizes no row.
  """
  first, *others = (escape(name) for name in head)
  names = f'<th scope="col">{first}</th>' + "".join(f'<th scope="col" class="n">{name}</th>' for name in others)
  lines = []
  for position, (heading, *values) in enumerate(rows):
    cells = "".join(f'<td class="n">{value}</td>' for value in values)
    kind = ' class="this"' if position == marked else ""
    lines.append(f'<tr{kind}><th scope="row">{heading}</th>{cells}</tr>')
  return f'<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def bullets(texts: Iterable[str]) -> str:
  """Returns plain texts as a bulleted list."""
  return f'<ul class="plain">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'


def image_tag(image: np.ndarray, alternative: str) -> str:
  """Returns an `<img>` element with the image embedded as PNG.

  Args:
    image: Image with one (grey) or three (RGB) channels, uint8 [H, W, C].
    alternative: Alternative text, plain text.
  """
  # OpenCV encodes images in BGR order.
  pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[-1] == 3 else image
  _, png = cv2.imencode(".png", np.ascontiguousarray(pixels))
  data = base64.b64encode(png.tobytes()).decode("ascii")
  height, width = image.shape[:2]
  return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(alternative)}">'


def _legend_class(line: Line) -> str:
  return " class=dashed" if line.dashed else " class=thin" if line.thin else ""


def chart_figure(chart: Chart, phases: Sequence[Phase]) -> str:
  """Returns a chart with its caption, and its legend if the caption alone does not identify the curves.

  Args:
    chart: Chart to draw.
    phases: Training phases to shade.
  """
  entries = [
    f'<li><i{_legend_class(line)} style="--colour: {line.colour}"></i>{escape(line.name)}</li>'
    for line in chart.lines
    if line.name
  ]
  if chart.ringed is not None:
    step = f"{chart.ringed[0]:,.0f}"
    entries.append(f'<li><i class="ring" style="--colour: var(--accent)"></i>selected, step {step}</li>')
  # A single curve with the chart's own title needs no legend.
  named = len(entries) > 1 or chart.lines[0].name != chart.title.lower()
  legend = f'<ul class="legend">{"".join(entries)}</ul>' if named else ""
  note = f"<small>{escape(chart.note)}</small>" if chart.note else ""
  return (
    f'<figure class="chart"><figcaption>{escape(chart.title)}{note}</figcaption>{draw(chart, phases)}{legend}</figure>'
  )
