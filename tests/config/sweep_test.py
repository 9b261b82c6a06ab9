"""A sweep that is written wrongly is refused."""

import re

import pytest

from configs.sweeps import SIZES, separable_se_fusion
from fer_jax.config.sweep import Figure, Member, Sweep

MEMBER = Member("one", "configs/hsic.py:demo")


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: Member("one", "c.py", seeds=()), "seeds"),
    (lambda: Member("one", "c.py", seeds=(1, 1)), "each once"),
    (lambda: Member("one", "c.py", ("model.blocks=1",)), "expected --config.KEY=VALUE"),
    (lambda: Member("one", "c.py", ("--config.seed=1",)), "seeds in `seeds`"),
    (lambda: Figure("bars", "test accuracy"), "expected one of curves, points, lines, classes"),
    (lambda: Figure("points", "training loss"), "expected one of test accuracy, validation accuracy"),
    (lambda: Figure("curves", "test accuracy"), "expected one of validation accuracy"),
    (lambda: Figure("lines", "training loss"), "expected one of test accuracy, validation accuracy"),
    (lambda: Figure("classes", "precision"), "expected one of recall"),
    (lambda: Figure("scatter", "test accuracy"), "expected one of seconds an epoch"),
    (lambda: Figure("points", "test accuracy", over="parameters"), "for a scatter, else nothing"),
    (
      lambda: Sweep("t", "c", "c", (MEMBER,), (Figure("points", "test accuracy", members=("two",)),)),
      "names of members",
    ),
    (lambda: Sweep("t", "c", "c", (MEMBER,), (Figure("lines", "test accuracy"),)), "a series and a number"),
    (lambda: Sweep("t", "c", "c", (MEMBER,), (), choose="test accuracy"), "never select on the test split"),
    (lambda: Sweep("t", "c", "c", (MEMBER,), (), choose="validation"), "expected validation accuracy"),
    (lambda: Sweep("t", "c", "c", (), ()), "one or more"),
    (lambda: Sweep("t", "c", "c", (MEMBER, MEMBER), ()), "each name once"),
  ],
)
def test_a_mistake_is_a_value_error(make, said):
  with pytest.raises(ValueError, match=re.escape(said)):
    make()


@pytest.mark.parametrize("variant", SIZES)
def test_the_fusion_coefficient_is_chosen_among_those_from_end_to_end(variant):
  sweep = separable_se_fusion.get_sweep(variant)
  assert sweep.choose == "validation accuracy"
  assert [member.value for member in sweep.members] == [0, 0.25, 0.5, 0.75, 1]
  assert sweep.members[1].overrides[-1] == "--config.model.fusion=0.25"
  assert {figure.quantity for figure in sweep.figures} == {"validation accuracy", "test accuracy"}
  words = {"": "", "small": "small,", "demo": "drawn,demo,"}[variant]
  assert {member.config for member in sweep.members} == {f"configs/separable_se.py:{words}two_channel,honest"}
