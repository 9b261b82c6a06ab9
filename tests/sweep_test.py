"""A sweep that is written wrongly is refused."""

import re

import pytest

from fer_jax.sweep import Figure, Member, Sweep

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
    (
      lambda: Sweep("t", "c", "c", (MEMBER,), (Figure("points", "test accuracy", members=("two",)),)),
      "names of members",
    ),
    (lambda: Sweep("t", "c", "c", (MEMBER,), (Figure("lines", "test accuracy"),)), "a series, and a number"),
    (lambda: Sweep("t", "c", "c", (), ()), "one or more"),
    (lambda: Sweep("t", "c", "c", (MEMBER, MEMBER), ()), "each name once"),
  ],
)
def test_a_mistake_is_a_value_error(make, said):
  with pytest.raises(ValueError, match=re.escape(said)):
    make()
