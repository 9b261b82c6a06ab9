"""The section on the origin of a run: time, seeds, notes, config, commit and versions."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from fer_jax.apps.formatting import count, duration, short_commit
from fer_jax.apps.report_page.markup import Section, bullets, facts, table
from fer_jax.training.run_files import Run, mapping

_TIME_COLOURS = ("var(--accent)", "var(--other-0)", "var(--other-1)", "var(--other-2)", "var(--other-3)")


def _time(run: Run) -> str:
  spent = {str(name): float(seconds) for name, seconds in mapping(mapping(run.result).get("time")).items() if seconds}
  if not spent:
    return ""
  parts, entries = [], []  # segments of the stacked bar, and its legend; longest first
  for position, (name, seconds) in enumerate(sorted(spent.items(), key=lambda item: -item[1])):
    colour = _TIME_COLOURS[position % len(_TIME_COLOURS)]
    parts.append(f'<i style="--colour: {colour}; --share: {seconds:.3f}"></i>')
    entries.append(f'<li><i style="--colour: {colour}"></i>{escape(name)} {duration(seconds)}</li>')
  return (
    f'<figure><figcaption>Where the time went</figcaption><div class="stack">{"".join(parts)}</div>'
    f'<ul class="legend">{"".join(entries)}</ul></figure>'
  )


def _versions(run: Run) -> str:
  versions = mapping(mapping(run.result).get("versions") or run.config.get("versions"))
  if not versions:
    return ""
  rows = [[escape(str(name)), f"<code>{escape(str(version))}</code>"] for name, version in versions.items()]
  return f'<figure class="narrow"><figcaption>Versions</figcaption>{table(["package", "version"], rows)}</figure>'


def _notes(run: Run) -> str:
  notes = [str(note) for note in mapping(run.result).get("notes") or []]
  notes += [f"Step {count(event['step'])}: {event.get('text', '')}" for event in run.metrics.events]
  return f"<h3>Notes</h3>{bullets(notes)}" if notes else ""


def _division(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """Returns the facts of a run with several replicas: how the folds were split, and how the replicas were trained.

  Each fact is (name, value, small print), as `markup.facts` takes it.
  """
  folds, strategy = mapping(result.get("folds")), mapping(result.get("strategy"))
  found = []
  if folds:
    found.append(("Folds", f"by {folds['by'].replace('_', ' ')}", f"{folds['count']}, split with seed {folds['seed']}"))
  if strategy:
    found.append(("Strategy", f"{strategy['strategy']}, {strategy['together']} at a time", strategy["reason"]))
  return found


def provenance(run: Run) -> Section:
  """Returns the section with everything needed to repeat the run, and its notes and events."""
  result = mapping(run.result)
  seeds = result.get("seeds") or []
  commit = str(result.get("commit") or run.config.get("commit") or "unknown")
  overrides = [str(override) for override in run.config.get("overrides") or []]
  known = facts(
    [
      ("Config", run.source, ""),
      ("Commit", short_commit(commit), ""),
      ("Seed" if len(seeds) == 1 else "Seeds", ", ".join(str(seed) for seed in seeds) or "not stated", ""),
      *_division(result),
    ]
  )
  changed = "".join(f"<code>{escape(override)}</code><br>" for override in overrides)
  changed = f"<p>{changed or 'none'}</p>"
  whole = json.dumps(run.config.get("config", {}), indent=2, ensure_ascii=False)
  columns = "".join(part for part in (_time(run), _versions(run)) if part)
  body = (
    f'{known}<h3>Overrides</h3>{changed}{_notes(run)}<div class="columns apart">{columns}</div>'
    f"<details><summary>The whole config</summary><pre>{escape(whole)}</pre></details>"
  )
  return Section("provenance", "How it was made", body)
