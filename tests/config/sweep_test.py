"""Validation of the specification of a sweep."""

import re

import pytest

from configs.sweeps import SIZES, separable_se_fusion
from fer_jax.config.sweep import Candidate, Figure, Sweep

CANDIDATE = Candidate("one", "configs/hsic.py:demo")


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Candidate("one", "c.py", seeds=()), "seeds"),
    (lambda: Candidate("one", "c.py", seeds=(1, 1)), "each once"),
    (lambda: Candidate("one", "c.py", ("model.blocks=1",)), "expected --config.KEY=VALUE"),
    (lambda: Candidate("one", "c.py", ("--config.seed=1",)), "seeds in `seeds`"),
    (lambda: Figure("bars", "test accuracy"), "expected one of curves, points, lines, classes"),
    (lambda: Figure("points", "training loss"), "expected one of test accuracy, validation accuracy"),
    (lambda: Figure("curves", "test accuracy"), "expected one of validation accuracy"),
    (lambda: Figure("lines", "training loss"), "expected one of test accuracy, validation accuracy"),
    (lambda: Figure("classes", "precision"), "expected one of recall"),
    (lambda: Figure("scatter", "test accuracy"), "expected one of minutes of training"),
    (lambda: Figure("points", "test accuracy", over="parameters"), "for a scatter, else nothing"),
    (
      lambda: Sweep("t", "c", "c", (CANDIDATE,), (Figure("points", "test accuracy", candidates=("two",)),)),
      "names of candidates",
    ),
    (lambda: Sweep("t", "c", "c", (CANDIDATE,), (Figure("lines", "test accuracy"),)), "a series and a number"),
    (lambda: Sweep("t", "c", "c", (CANDIDATE,), (), choose="test accuracy"), "never select on the test split"),
    (lambda: Sweep("t", "c", "c", (CANDIDATE,), (), choose="validation"), "expected validation accuracy"),
    (lambda: Sweep("t", "c", "c", (), ()), "one or more"),
    (lambda: Sweep("t", "c", "c", (CANDIDATE, CANDIDATE), ()), "each name once"),
  ],
)
def test_rejects_an_invalid_specification(make, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make()


@pytest.mark.parametrize("variant", SIZES)
def test_fusion_coefficients_cover_the_whole_range(variant):
  sweep = separable_se_fusion.get_sweep(variant)
  assert sweep.choose == "validation accuracy"
  assert [candidate.value for candidate in sweep.candidates] == [0, 0.25, 0.5, 0.75, 1]
  assert sweep.candidates[1].overrides[-1] == "--config.model.fusion=0.25"
  assert {figure.quantity for figure in sweep.figures} == {"validation accuracy", "test accuracy"}
  words = {"": "", "small": "small,", "demo": "drawn,demo,"}[variant]
  assert {candidate.config for candidate in sweep.candidates} == {f"configs/separable_se.py:{words}two_channel,honest"}
