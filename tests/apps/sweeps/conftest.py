"""A little sweep in a file, and a launcher of it whose runs are those of fake_main.py."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fer_jax.apps.sweeps.executors import Local
from fer_jax.apps.sweeps.launcher import Launcher
from fer_jax.apps.sweeps.plan import Plan, plan

ROOT = Path(__file__).resolve().parents[3]
SWEEP = """
from fer_jax.sweep import Figure, Member, Sweep

def get_sweep(variant=""):
  if variant not in ("", "three", "drawn", "against", "choose", "lines"):
    raise ValueError(f"no variant {variant!r}: expected three, drawn, against, choose, lines, or none")
  seeds = (0, 1, 2) if variant not in ("", "lines") else (0,)
  curves = (
    Figure("curves", "validation accuracy", "A note."), Figure("curves", "training loss"),
    Figure("curves", "training accuracy"),
  )
  lines = (
    Figure("lines", "test accuracy", title="By depth"),
    Figure("classes", "recall", members=("2 blocks", "3 blocks")),
  )
  points = (*(curves if variant == "drawn" else ()), Figure("points", "test accuracy"))
  return Sweep(
    title="Blocks & <seeds>",
    citation="A. Author 2023, figure 1",
    claim="More is <b>better</b>.",
    swept="blocks",
    members=tuple(
      Member(
        f"{n} blocks", "configs/hsic.py:demo", (f"--config.model.blocks={n}",), seeds, n, reported,
        series=("even" if n == 2 else "odd") if variant == "lines" else "", by_class={"happy": 0.9} if n == 2 else {},
      )
      for n, reported in ((1, {}), (2, {"test accuracy": 0.97, "steps to converge": 2500}), (3, {}))
    ),
    figures=lines if variant == "lines" else points,
    reference="2 blocks" if variant == "against" else "",
    choose="validation accuracy" if variant == "choose" else "",
  )
"""


class Launch:
  """Runs the sweep; `calls` are the runs that were taken since the last look, as members' numbers of blocks."""

  def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
    self.workdir = folder / "sweeps"
    self.source = str(folder / "blocks.py")
    self._calls = folder / "calls"
    self._monkeypatch = monkeypatch
    Path(self.source).write_text(SWEEP)
    monkeypatch.setenv("FAKE_CALLS", str(self._calls))

  def plan(self, *overrides: str, variant: str = "") -> Plan:
    return plan(f"{self.source}:{variant}" if variant else self.source, self.workdir, overrides)

  def run(self, variant: str = "", **does: str) -> int:
    """Runs what is left; `blocks2="fail"` is what the run of two blocks does."""
    told = {part.replace("blocks", "blocks="): what for part, what in does.items()}
    self._monkeypatch.setenv("FAKE_RUNS", json.dumps(told))
    program = [sys.executable, "-S", str(Path(__file__).with_name("fake_main.py"))]
    return Launcher(self.plan(variant=variant), Local(program)).run()

  def measure(self, variant: str, blocks: int, validation: Sequence[float | None], test: float) -> None:
    """Gives the runs of so many blocks, one for each seed, other accuracies."""
    runs = [run for run in self.plan(variant=variant).runs if run.member == f"{blocks} blocks"]
    for run, accuracy in zip(runs, validation, strict=True):
      path = run.workdir / "result.json"
      result = json.loads(path.read_text())
      path.write_text(json.dumps({**result, "accuracy": test, "validation": {"accuracy": accuracy, "step": 20}}))

  def calls(self) -> list[str]:
    names = self._calls.read_text().split() if self._calls.exists() else []
    self._calls.unlink(missing_ok=True)
    # The demo has three blocks: a folder's name says what differs.
    return [name.split("blocks=")[1][0] if "blocks=" in name else "3" for name in names]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
  monkeypatch.chdir(ROOT)
  return Launch(tmp_path, monkeypatch)
