"""A parser of HTML pages for tests of what they show."""

import re
from html.parser import HTMLParser
from pathlib import Path

_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
  """Elements, text and table rows of an HTML page; raises where tags are not properly nested.

  Attributes:
    source: HTML of the page.
    elements: Tag and attributes of each element, in order.
    open: Tags that are open at the parser's current position; empty once the page is parsed.
    text: Text without that of style elements.
    data: Value and shown text of each data element.
    rows: Texts of the cells of each table row.
  """

  def __init__(self, path: Path) -> None:
    super().__init__(convert_charrefs=True)
    self.source = path.read_text(encoding="utf-8")
    self.elements: list[tuple[str, dict[str, str | None]]] = []
    self.open: list[str] = []
    self.text = ""
    self.data: list[tuple[str, str]] = []
    self.rows: list[list[str]] = []
    self.feed(self.source)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.elements.append((tag, dict(attrs)))
    if tag not in _VOID:
      self.open.append(tag)
    if tag == "data":
      self.data.append((dict(attrs)["value"] or "", ""))
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self.rows[-1].append("")

  def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag: str) -> None:
    assert self.open.pop() == tag

  def handle_data(self, data: str) -> None:
    if "style" in self.open:
      return
    self.text += data
    if "data" in self.open:
      self.data[-1] = (self.data[-1][0], data)
    if "td" in self.open or "th" in self.open:
      self.rows[-1][-1] += data

  def all(self, tag: str) -> list[dict[str, str | None]]:
    """Returns the attributes of all elements with the tag."""
    return [attributes for name, attributes in self.elements if name == tag]

  def captions(self) -> list[str]:
    """Returns the captions of all figures."""
    return re.findall(r"<figcaption>([^<]*)", self.source)

  def facts(self, section: str) -> dict[str, str]:
    """Returns the names and values of the facts in a section."""
    inside = self.source.split(f'<section id="{section}">')[1].partition("</section>")[0]
    return dict(re.findall(r"<dt>([^<]*)</dt><dd>(.*?)</dd>", inside))
