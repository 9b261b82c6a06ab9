"""The section that sets the ways to average views of an image beside each other."""

from collections.abc import Mapping
from html import escape
from typing import Any

from fer_jax.apps.report_page.markup import Section, table
from fer_jax.apps.report_page.quantities import percent
from fer_jax.apps.report_page.run_files import Run, mapping

_NAMES = {"single": "one image", "flip": "+ mirror image", "ten_crop": "ten crops"}
_LEAD = (
  "The test accuracy at the top is of one image as it is. The probabilities of several views of it can be averaged: "
  "a way to do so is to be chosen by validation, where the marked one does best, and not by test."
)


def views(run: Run) -> Section | None:
  """Lists accuracy and loss by the views that are averaged, where a run was evaluated in more than one."""
  result = mapping(run.result)
  by_protocol = mapping(result.get("views"))
  if not by_protocol:
    return None
  seen = bool(mapping(result.get("deduplicated")).get("seen"))
  best = max(by_protocol, key=lambda protocol: by_protocol[protocol]["validation"])  # of equals that of fewer views
  head = ["views", "validation accuracy", "test accuracy", *(["unseen images only"] if seen else []), "test loss"]
  rows = [_row(protocol, figures, seen) for protocol, figures in by_protocol.items()]
  lead = f"{_LEAD} Means over the trainings." if len(result.get("runs") or []) > 1 else _LEAD
  listed = table(head, rows, marked=list(by_protocol).index(best))
  return Section("views", "Views", f'<p class="lead">{escape(lead)}</p><div class="narrow">{listed}</div>')


def _row(protocol: str, figures: Mapping[str, Any], seen: bool) -> list[str]:
  test = percent(figures["test"])
  if figures.get("std") is not None:  # of several trainings
    test = f"{100 * figures['test']:.2f} \N{PLUS-MINUS SIGN} {percent(figures['std'])}"
  unseen = figures["deduplicated"]
  return [
    f'<span class="nowrap">{escape(_NAMES.get(protocol, protocol))}</span>',
    percent(figures["validation"]),
    test,
    *(["no image" if unseen is None else percent(unseen)] if seen else []),
    f"{figures['loss']:.3f}",
  ]
