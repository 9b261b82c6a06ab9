"""Hooks of MkDocs: pages from files outside docs/, and formulas in docstrings.

The README is the home page. A link to a file outside docs/, such as `../configs/hsic.py`, works on GitHub as it is; on
the site it leads to a page below `source/` that shows this file.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Pages of the site that are Markdown files of the repository outside docs/.
ORIGINALS = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
FORMULA = re.compile(r":math:<code>(.*?)</code>")


def on_files(files: Files, config: Any) -> Files:
  """Adds the pages that come from files outside docs/."""
  for uri, name in ORIGINALS.items():
    files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding="utf-8")))
  for page in list(files.documentation_pages()):
    for link in LINK.findall(page.content_string):
      path = _path_of(page.src_uri, link)
      uri = _uri_of(path)
      if (ROOT / path).is_file() and files.get_file_from_path(uri) is None:
        text = (ROOT / path).read_text(encoding="utf-8")
        language = "python" if path.endswith(".py") else "text"
        # Not in the search index, which would find every identifier of a file.
        front = "---\nsearch: {exclude: true}\nhide: [toc]\n---\n"
        files.append(File.generated(config, uri, content=f"{front}# {path}\n\n~~~~ {language}\n{text}~~~~\n"))
  return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
  """Points the links of a page to the pages of the site."""

  def moved(link: re.Match[str]) -> str:
    path = _path_of(page.file.src_uri, link[1])
    if not (ROOT / path).is_file():
      return link[0]
    return f"]({posixpath.relpath(_uri_of(path), posixpath.dirname(page.file.src_uri) or '.')}"

  return LINK.sub(moved, markdown)


def on_page_content(html: str, **_: Any) -> str:
  """Marks formulas of docstrings, `:math:` followed by code, for MathJax."""
  return FORMULA.sub(r'<span class="arithmatex">\(\1\)</span>', html)


def _path_of(uri: str, link: str) -> str:
  """Returns the path in the repository that a link on a page of the site leads to."""
  return posixpath.normpath(posixpath.join(posixpath.dirname(ORIGINALS.get(uri, f"docs/{uri}")), link))


def _uri_of(path: str) -> str:
  """Returns the page of the site for a file of the repository."""
  pages = {original: uri for uri, original in ORIGINALS.items()}
  return path.removeprefix("docs/") if path.startswith("docs/") else pages.get(path, f"source/{path}.md")
