"""The section that compares protocols of test-time augmentation."""

from collections.abc import Mapping
from html import escape
from typing import Any

from fer_jax.apps.formatting import percent
from fer_jax.apps.report_page.markup import Section, table
from fer_jax.training.run_files import Run, mapping

_NAMES = {"single": "one image", "flip": "+ mirror image", "ten_crop": "ten crops"}
_LEAD = (
  "The test accuracy at the top of the page is that of single images, without test-time augmentation. Test-time "
  "augmentation averages the probabilities of several views of an image. Choose a protocol by validation accuracy, "
  "not by test accuracy; the marked one is the best on validation."
)


def views(run: Run) -> Section | None:
  """Returns the section with accuracy and loss by protocol; None if the run was not evaluated with several."""
  result = mapping(run.result)
  by_protocol = mapping(result.get("views"))
  if not by_protocol:
    return None
  seen = bool(mapping(result.get("deduplicated")).get("seen"))
  # max() returns the first of equals; protocols are listed by number of views, so ties go to the fewest views.
  best = max(by_protocol, key=lambda protocol: by_protocol[protocol]["validation"])
  head = ["views", "validation accuracy", "test accuracy", *(["unseen images only"] if seen else []), "test loss"]
  rows = [_row(protocol, figures, seen) for protocol, figures in by_protocol.items()]
  lead = f"{_LEAD} Means over the replicas." if len(result.get("runs") or []) > 1 else _LEAD
  listed = table(head, rows, marked=list(by_protocol).index(best))
  return Section("views", "Views", f'<p class="lead">{escape(lead)}</p><div class="narrow">{listed}</div>')


def _row(protocol: str, figures: Mapping[str, Any], seen: bool) -> list[str]:
  test = percent(figures["test"])
  if figures.get("std") is not None:  # several replicas
    test = f"{100 * figures['test']:.2f} \N{PLUS-MINUS SIGN} {percent(figures['std'])}"
  unseen = figures["deduplicated"]
  return [
    f'<span class="nowrap">{escape(_NAMES.get(protocol, protocol))}</span>',
    percent(figures["validation"]),
    test,
    *(["no image" if unseen is None else percent(unseen)] if seen else []),
    f"{figures['loss']:.3f}",
  ]
