"""The section that lists the trainings which a run consists of: its folds, or its seeds."""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean, stdev
from typing import Any
from urllib.parse import quote

from fer_jax.apps.report_page.markup import Section, said, table
from fer_jax.apps.report_page.quantities import count, duration, percent
from fer_jax.apps.report_page.run_files import Record, Run, mapping

# How a dataset is divided into folds, by the unit that is kept whole.
_DIVISIONS = {
  "images": "The folds are drawn over images: one person, and frames of one sequence, may be in training and test.",
  "groups": "The folds are drawn over groups: the frames of a sequence, and equal pictures, stay together, but one "
  "person may be in training and test.",
  "subjects": "The folds are drawn over people: nobody is in training and test.",
  "one_subject_out": "Each fold is one person, who is tested by a training on all others.",
  "file": "The folds are those of a file.",
}
SHARED = (
  "Folds have most of their training images in common, so that their interval is rather too narrow (Bengio & "
  "Grandvalet 2004, JMLR 5)."
)
_SEEDS = (
  "The trainings differ in their seed alone, and all are tested on the same images. The 95 % interval is Student's "
  "t over the trainings: it says how much one differs from another."
)


def name_of(replica: str) -> str:
  """Writes the name of a replica's folder as a reader says it: "fold 3"."""
  return replica.replace("_", " ")


def trainings(run: Run) -> Section | None:
  """Lists the trainings of a run, each linked to its own page, with mean and standard deviation in the last row."""
  result = mapping(run.result)
  listed = result.get("runs") or [_record(replica) for replica in run.replicas]
  if not run.replicas and len(listed) < 2:
    return None
  known = {replica.name for replica in run.replicas}
  seen = any(mapping(one.get("deduplicated")).get("seen") for one in listed)
  rows = [_row(one, known, seen) for one in listed]
  ended = [one for one in listed if one.get("accuracy") is not None]
  if ended:
    rows.append(_last_row(ended, len(listed), seen))
  head = ["training", "seed", "test accuracy", *(["unseen images only"] if seen else []), "validation accuracy"]
  head += ["best step", "steps", "test images", "time", "ended"]
  body = f'<p class="lead">{escape(_lead(run))}</p>{table(head, rows, marked=len(listed) if ended else None)}'
  return Section("trainings", "Trainings", body)


def _lead(run: Run) -> str:
  by = mapping(mapping(run.result).get("folds")).get("by") or mapping(run.settings.get("folds")).get("by")
  return f"{_DIVISIONS[by]} The 95 % interval is Student's t over the folds. {SHARED}" if by else _SEEDS


def _record(replica: Run) -> Record:
  """Returns what a run's result will say of a training, as far as it is known."""
  result = mapping(replica.result)
  (run,) = result.get("runs") or [{}]
  validation = mapping(result.get("validation"))
  return {
    "name": replica.name,
    "seed": replica.settings.get("seed"),
    "accuracy": run.get("accuracy"),
    "validation_accuracy": validation.get("accuracy"),
    "best_step": validation.get("step"),
    "images": sum(map(sum, result["confusion_matrix"])) if "confusion_matrix" in result else None,
    "steps": result.get("steps", replica.last_step),
    **{key: result.get(key) for key in ("stopped", "seconds", "deduplicated")},
  }


def _row(one: Mapping[str, Any], known: set[str], seen: bool) -> list[str]:
  name = str(one.get("name") or "")
  heading = escape(name_of(name))
  if name in known:
    heading = f'<a href="../replicas/{quote(name)}/report/index.html">{heading}</a>'
  fresh = mapping(one.get("deduplicated"))
  unseen = "no image" if fresh and fresh.get("accuracy") is None else said(percent(fresh.get("accuracy")))
  return [
    f'<span class="nowrap">{heading}</span>',
    escape(str(one.get("seed", ""))),
    said(percent(one.get("accuracy"))),
    *([unseen] if seen else []),
    said(percent(one.get("validation_accuracy"))),
    *(said(count(one.get(key))) for key in ("best_step", "steps", "images")),
    said(duration(one.get("seconds"))),
    escape(str(one.get("stopped") or "not yet")),
  ]


def _last_row(ended: Sequence[Mapping[str, Any]], of: int, seen: bool) -> list[str]:
  """Returns mean and standard deviation of the columns that have them, over the trainings that have ended."""
  unseen = [{"accuracy": mapping(one.get("deduplicated")).get("accuracy")} for one in ended]
  which = "" if len(ended) == of else f" of the {len(ended)} that have ended"
  return [
    f"mean \N{PLUS-MINUS SIGN} standard deviation{which}",
    "",
    _spread(ended, "accuracy", 100, "{:.2f}", " %"),
    *([_spread(unseen, "accuracy", 100, "{:.2f}", " %")] if seen else []),
    _spread(ended, "validation_accuracy", 100, "{:.2f}", " %"),
    *(_spread(ended, key, 1, "{:,.0f}", "") for key in ("best_step", "steps", "images")),
    "",
    "",
  ]


def _spread(rows: Sequence[Mapping[str, Any]], key: str, times: float, form: str, unit: str) -> str:
  values = [times * row[key] for row in rows if row.get(key) is not None]
  if not values:
    return ""
  mean = form.format(fmean(values))
  return f"{mean}{unit}" if len(set(values)) == 1 else f"{mean} \N{PLUS-MINUS SIGN} {form.format(stdev(values))}{unit}"
