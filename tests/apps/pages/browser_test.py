"""All pages in a real browser, wide and narrow: no messages on the console, nothing clipped or beyond the window."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer_jax.apps import evaluate
from fer_jax.apps.audit_page.content import audit_content
from fer_jax.apps.audit_page.page import audit_page
from fer_jax.apps.pages.render import render
from fer_jax.apps.report import write_report
from fer_jax.apps.sweeps.page import sweep_page
from fer_jax.apps.sweeps.sweep_result import parse_sweep
from fer_jax.data.arrays import Arrays
from fer_jax.data.duplicates import find_duplicates
from fer_jax.runtime import provenance
from fer_jax.training.metrics import METRICS, per_class
from tests.apps.fake_run import NAMES, write_folds, write_run

ROOT = Path(__file__).resolve().parents[3]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")

# Lists what is cut off: the page is wider than the window, an element reaches beyond the window although no box around
# it scrolls, or a text is larger than its element, which hides the rest. In narrow windows, tables may scroll.
SCRIPT = """
<script>
addEventListener("load", () => {
  const found = [], width = document.documentElement.clientWidth;
  const scrolls = (element) => {
    for (let box = element.parentElement; box; box = box.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return true;
    return false;
  };
  if (document.documentElement.scrollWidth > width) found.push("page of " + document.documentElement.scrollWidth);
  for (const element of document.body.querySelectorAll("*")) {
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    const name = element.tagName + "." + element.className + " " + element.textContent.trim().slice(0, 30);
    if (!box.width || style.position === "absolute" || element.closest("svg")) continue;
    if ((box.right > width + 1 || box.left < -1) && !scrolls(element)) found.push("beyond the window: " + name);
    if (style.overflowX === "hidden" && element.scrollWidth > element.clientWidth + 1) found.push("clipped: " + name);
    const fits = width > 1000 || element.querySelector(".confusion");
    if (["auto", "scroll"].includes(style.overflowX) && fits && element.scrollWidth > element.clientWidth)
      found.push("scrolls: " + name);
    if (element.closest(".confusion") && element.scrollWidth > element.clientWidth + 1) found.push("too wide: " + name);
  }
  document.body.insertAdjacentHTML("beforeend", "<template id=found></template>");
  document.getElementById("found").setAttribute("data-found", JSON.stringify({width: width, found: found}));
});
</script>
"""


def report(folder: Path) -> str:
  write_run(folder / "run")
  write_run(folder / "other", best=0.7)
  return write_report(folder / "run", [folder / "other"]).read_text()


def report_of_folds(folder: Path) -> str:
  write_folds(folder / "run", best=(0.55, 0.6, 0.5))
  return write_report(folder / "run").read_text()


def audit(folder: Path) -> str:
  random = np.random.default_rng(0)
  image = random.integers(0, 256, (40, 48, 48, 1), np.uint8)
  image[[5, 9, 30]] = image[[0, 1, 2]]
  arrays = Arrays(
    image=image,
    label=random.integers(0, 7, 40, np.int32),
    subject=np.array([f"S{n % 9:03d}" for n in range(40)]),
    group=np.arange(40, dtype=np.int32),
    split=np.repeat(["train", "validation", "test"], [20, 10, 10]),
    class_names=tuple(NAMES),
  )
  header = {"dataset": "faces", "dataset_version": "1", "origin": None, "commit": "unknown", "versions": {"jax": "0"}}
  return audit_page(header | audit_content(arrays, find_duplicates(arrays), 6), image)


def sweep(name: str) -> Callable[[Path], str]:
  def make(folder: Path) -> str:
    path = ROOT / "results" / f"{name}.json"
    return sweep_page(parse_sweep(json.loads(path.read_text()), str(path)), [])

  return make


def evaluation(folder: Path) -> str:
  random = np.random.default_rng(0)
  probability, label = random.dirichlet(np.ones(7), 500), random.integers(0, 7, 500)
  confusion = np.full((7, 7), 1234)
  found = evaluate.Evaluation(
    dataset="image_folder/own",
    splits=("train", "validation", "test"),
    network="configs/fer2013.py:league,se_resnet18",
    views="flip",
    detector="HaarDetector",
    images=500,
    without_face=12,
    metrics={name: metric(probability, label) for name, metric in METRICS.items()},
    interval_95=(0.1, 0.2),
    class_names=tuple(NAMES),
    confusion_matrix=tuple(map(tuple, confusion.tolist())),
    per_class=per_class(confusion, NAMES),
    notes=("12 images of contempt are left out: the network has no such class",),
    device="cpu",
    versions=provenance.versions(),
    commit="unknown",
  )
  sections = {"classes": "Classes", "provenance": "How it was made"}
  return render("evaluation.html", title="evaluation", sections=sections, evaluation=found)


PAGES = {
  "report": report,
  "report of folds": report_of_folds,
  "audit": audit,
  "sweep of lines": sweep("resnet_depth_demo"),
  "sweep of points": sweep("ca_resnet_table2_small"),
  "sweep of curves": sweep("hsic_gap_small"),
  "evaluation": evaluation,
}


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_clipped_and_the_console_is_empty(name: str, tmp_path: Path) -> None:
  page = tmp_path / "page.html"
  page.write_text(PAGES[name](tmp_path).replace("</body>", f"{SCRIPT}</body>"))
  for width in (400, 720, 1000, 1200):
    # A window of less than 500 pixels is wider than requested, so the page is framed.
    frame = tmp_path / f"frame_{width}.html"
    frame.write_text(
      f'<body style="margin: 0"><iframe src="page.html" width={width} height=900 style="border: 0"></iframe><script>'
      "addEventListener('load', () => setTimeout(() => document.body.setAttribute('data-found',"
      "document.querySelector('iframe').contentDocument.getElementById('found').getAttribute('data-found')), 100))"
      "</script></body>"
    )
    command = [
      *(
        str(BROWSER),
        "--headless",
        "--hide-scrollbars",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--dump-dom",
      ),
      *("--enable-logging=stderr", "--virtual-time-budget=3000", f"--user-data-dir={tmp_path / 'profile'}"),
      *(f"--window-size={width + 40},1000", frame.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None, done.stdout[-500:]
    measured = json.loads(html.unescape(found[1]))
    assert measured == {"width": width, "found": []}
    assert "CONSOLE" not in done.stderr
