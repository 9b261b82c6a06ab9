import copy

import pytest
from ml_collections import ConfigDict

from configs import hsic
from fer_jax.config import parsing
from fer_jax.config.settings import Duration
from fer_jax.data.augment import Augmentation
from fer_jax.data.expansion import CopyAugmentation
from fer_jax.runtime.errors import UserError

VARIANTS = ["", "paper", "small", "demo", "backprop", "demo,backprop", "backprop,demo", "paper,small,demo"]


def small_config(**changes):
  """The least that parses: every key but the required ones is left out."""
  return ConfigDict(
    {
      "model": {"name": "hsic_dense"},
      "phases": {"only": {"objective": {"name": "backprop"}}},
      "schedule": ("only",),
      "duration": 10,
      **changes,
    }
  )


def sections(mapping, path=()):
  """Yields the path of every section of a nested dict."""
  yield path
  for key, value in mapping.items():
    if isinstance(value, dict):
      yield from sections(value, (*path, key))


def leaves(mapping, path=()):
  """Yields the path of every value of a nested dict."""
  for key, value in mapping.items():
    if isinstance(value, dict):
      yield from leaves(value, (*path, key))
    else:
      yield (*path, key)


def at(mapping, path):
  for key in path:
    mapping = mapping[key]
  return mapping


FULL = hsic.get_config().to_dict()
# These sections hold names that the user chooses.
FREE = {
  *(("phases",), ("paper", "reported"), ("paper", "by_class"), ("expansion", "by_class")),
  ("phases", "bottleneck", "objective", "layer_beta"),
}
SECTIONS = [path for path in sections(FULL) if path not in FREE]
LEAVES = [path for path in leaves(FULL) if path[:2] != ("paper", "reported") and path not in FREE]


def message_of(function, *arguments):
  with pytest.raises(UserError) as raised:
    function(*arguments)
  assert "\n" not in str(raised.value)
  return str(raised.value)


class TestDuration:
  @pytest.mark.parametrize(
    ("value", "expected"),
    [
      (500, (500, "steps")),
      (0, (0, "steps")),
      ("500", (500, "steps")),
      ("500 steps", (500, "steps")),
      ("1 step", (1, "steps")),
      (" 2e3STEPS ", (2000, "steps")),
      ("1e+06 steps", (1000000, "steps")),
      ("10 epochs", (10, "epochs")),
      ("1 epoch", (1, "epochs")),
      (".5 epochs", (0.5, "epochs")),
      ("2.5e-1 epochs", (0.25, "epochs")),
      (0.1, (0.1, "share")),
      (1.0, (1.0, "share")),
      (0.0, (0.0, "share")),
      ("0.1", (0.1, "share")),
      ("1.0", (1.0, "share")),
    ],
  )
  def test_forms(self, value, expected):
    assert Duration.parse(value, "config.duration") == Duration(*expected)

  @pytest.mark.parametrize(
    "value",
    [
      -1,
      -0.1,
      1.1,
      2.0,
      "1.1",
      "-5 steps",
      "5 minutes",
      "steps",
      "",
      "5 5 steps",
      True,
      None,
      (5,),
      {"a": 1},
      float("nan"),
      float("inf"),
      "nan",
      "inf",
    ],
  )
  def test_anything_else_names_the_key_and_the_forms(self, value):
    message = message_of(Duration.parse, value, "config.phases.x.duration")
    assert message.startswith("config.phases.x.duration=")
    assert '"10 epochs"' in message
    assert repr(value) in message

  def test_steps_of_each_unit(self):
    rows, batch_size = 1000, 128
    assert Duration(7, "steps").steps(50, rows, batch_size) == 7
    assert Duration(2, "epochs").steps(50, rows, batch_size) == round(2 * 1000 / 128)
    assert Duration(0.3, "share").steps(50, rows, batch_size) == 15

  @pytest.mark.parametrize("unit", ["steps", "epochs", "share"])
  def test_at_least_one_step(self, unit):
    assert Duration(0, unit).steps(50, 1000, 128) == 1


class TestComplete:
  @pytest.mark.parametrize("variant", VARIANTS)
  def test_every_variant_parses_to_the_same_when_completed_again(self, variant):
    completed = hsic.get_config(variant)
    assert parsing.complete(completed) == completed
    assert parsing.parse(parsing.complete(completed)) == parsing.parse(completed)

  @pytest.mark.parametrize("duration", [1_000_000, "1234567 steps", "0.00001 epochs", 0.123456, 1.0, 1e-7])
  def test_durations_survive(self, duration):
    once = parsing.complete(small_config(duration=duration))
    assert parsing.parse(once).duration == Duration.parse(duration, "")
    assert parsing.complete(once) == once

  def test_defaults_become_visible(self):
    completed = parsing.complete(small_config()).to_dict()
    assert set(leaves(completed["data"])) == set(leaves(FULL["data"]))
    assert completed["phases"]["only"]["optimizer"]["learning_rate"] == 1e-3
    assert completed["model"]["name"] == "hsic_dense"
    assert parsing.parse(small_config()) == parsing.parse(ConfigDict(completed))

  def test_a_section_keeps_its_own_defaults_where_a_few_are_given(self):
    partly = parsing.parse(small_config(expansion={"augmentation": {"flip": 0.0}})).expansion.augmentation
    assert partly == CopyAugmentation(flip=0.0)
    assert partly.rotation != Augmentation().rotation

  def test_the_argument_is_left_as_it_was(self):
    given = small_config()
    before = given.to_dict()
    parsing.complete(given)
    assert given.to_dict() == before


class TestUnknownKeys:
  @pytest.mark.parametrize("path", SECTIONS, ids=".".join)
  def test_in_every_section_names_the_nearest(self, path):
    mapping = copy.deepcopy(FULL)
    section = at(mapping, path)
    known = [key for key in section if key != "name"][-1]
    section[f"{known}x"] = section[known]
    place = ".".join(["config", *path])
    assert message_of(parsing.parse, ConfigDict(mapping)) == (
      f"{place}.{known}x: no such key; did you mean {place}.{known}?"
    )

  def test_with_nothing_near_lists_what_is_known(self):
    message = message_of(parsing.parse, small_config(data={"zzz": 1}))
    assert message.startswith("config.data.zzz: no such key; the keys are: crop, data_dir, ")

  @pytest.mark.parametrize("path", LEAVES, ids=".".join)
  def test_override_reaches_every_key_and_no_other(self, path):
    full, name = hsic.get_config(), ".".join(path)
    parsing.check_override(full, f"--config.{name}=1")
    parsing.check_override(full, f"-config.{name}=1")
    assert f"did you mean config.{name}?" in message_of(parsing.check_override, full, f"--config.{name}x=1")
    assert f"config.{name}.deeper" in message_of(parsing.check_override, full, f"--config.{name}.deeper=1")

  def test_override_of_a_section_that_does_not_exist(self):
    message = message_of(parsing.check_override, hsic.get_config(), "--config.dta.name=x")
    assert message == "config.dta: no such key; did you mean config.data?"

  def test_other_flags_are_not_overrides(self):
    parsing.check_override(hsic.get_config(), "--configuration.x=1")
    parsing.check_override(hsic.get_config(), "--workdir=config.x")


class TestWrongValues:
  @pytest.mark.parametrize(
    ("changes", "start"),
    [
      ({"seed": "1"}, "config.seed='1': expected int, not str"),
      ({"seed": True}, "config.seed=True: expected int, not bool"),
      ({"batch_size": 64.0}, "config.batch_size=64.0: expected int, not float"),
      ({"batch_size": 0}, "config.batch_size=0: expected 1 or more"),
      ({"eval_batch_size": -1}, "config.eval_batch_size=-1: expected 1 or more"),
      ({"budget_minutes": True}, "config.budget_minutes=True: expected float, not bool"),
      ({"budget_minutes": -1}, "config.budget_minutes=-1.0: expected minutes"),
      ({"clock": "sun"}, "config.clock='sun': expected one of wall, cpu"),
      ({"precision": "float16"}, "config.precision='float16': expected one of float32, bfloat16"),
      ({"data": {"residence": "disk"}}, "config.data.residence='disk': expected one of auto, device, host"),
      ({"data": {"name": 3}}, "config.data.name=3: expected str, not int"),
      ({"data": 3}, "config.data=3: expected a section with name, "),
      ({"augmentation": {"flip": 2.0}}, "config.augmentation: augmentation.flip=2.0: expected a probability"),
      (
        {"expansion": {"protocol": "fair"}},
        "config.expansion: expansion.protocol='fair': expected one of empty, paper, ",
      ),
      ({"expansion": {"factor": 0}}, "config.expansion: expansion.factor=0: expected 1 (no copies) or more"),
      ({"expansion": {"factor": 1.5}}, "config.expansion.factor=1.5: expected int, not float"),
      ({"expansion": {"by_class": {"sad": 0}}}, "config.expansion: expansion.by_class.sad=0: expected 1 (no copies)"),
      ({"expansion": {"by_class": {"sad": "5"}}}, "config.expansion.by_class.sad='5': expected int, not str"),
      ({"expansion": {"seed": 2**31}}, "config.expansion: expansion.seed=2147483648: expected 0 to 2147483647"),
      (
        {"expansion": {"protocol": "honest"}},
        "config.expansion: expansion.protocol='honest' with expansion.factor=1 makes no copies: expected 2 or more",
      ),
      (
        {"expansion": {"augmentation": {"flip": 2.0}}},
        "config.expansion.augmentation: augmentation.flip=2.0: expected",
      ),
      ({"expansion": {"protocol": "paper", "factor": 2}}, "config.expansion.protocol='paper' splits the expanded "),
      (
        {
          "expansion": {"protocol": "paper", "by_class": {"sad": 2}},
          "folds": {"by": "images"},
          "data": {"drop": "train_duplicates"},
        },
        "config.data.drop='train_duplicates' removes the copies of test images that config.expansion.protocol='paper'",
      ),
      ({"model": {"name": "nobody"}}, "config.model.name='nobody': expected one of hsic_dense"),
      ({"model": {"blocks": 3}}, "config.model.name is missing: expected one of hsic_dense"),
      ({"paper": {"reported": {"accuracy": "high"}}}, "config.paper.reported.accuracy='high': expected float, not str"),
      ({"paper": {"reported": 1.0}}, "config.paper.reported=1.0: expected a section"),
      ({"schedule": 5}, "config.schedule=5: expected "),
      ({"schedule": ("only", 5)}, "config.schedule=5: expected str, not int"),
      ({"duration": "ten steps"}, "config.duration='ten steps': expected steps"),
      ({"phases": 1}, "config.phases=1: expected a section"),
    ],
  )
  def test_name_the_key_and_what_was_expected(self, changes, start):
    assert message_of(parsing.parse, small_config(**changes)).startswith(start)

  @pytest.mark.parametrize(
    ("phase", "start"),
    [
      ({"objective": {"name": "nobody"}}, "config.phases.only.objective.name='nobody': expected one of backprop, "),
      ({"objective": {}}, "config.phases.only.objective.name is missing"),
      ({}, "config.phases.only.objective is missing"),
      ({"objective": {"name": "backprop"}, "optimizer": {"name": "nobody"}}, "config.phases.only.optimizer: "),
      ({"objective": {"name": "backprop"}, "patience": 0.5}, "config.phases.only.patience=0.5: expected int"),
      ({"objective": {"name": "backprop"}, "duration": 1.5}, "config.phases.only.duration=1.5: expected steps"),
    ],
  )
  def test_in_a_phase(self, phase, start):
    assert message_of(parsing.parse, small_config(phases={"only": phase})).startswith(start)

  @pytest.mark.parametrize("key", ["model", "phases", "schedule", "duration"])
  def test_a_missing_key_is_named(self, key):
    mapping = small_config().to_dict()
    del mapping[key]
    assert message_of(parsing.parse, ConfigDict(mapping)) == f"config.{key} is missing"

  def test_an_int_will_do_for_a_float(self):
    settings = parsing.parse(small_config(budget_minutes=8))
    assert isinstance(settings.budget_minutes, float)

  def test_a_string_will_do_for_one_name(self):
    assert parsing.parse(small_config(schedule="only")).schedule == ("only",)


class TestSchedule:
  def test_a_name_without_a_phase(self):
    message = message_of(parsing.parse, small_config(schedule=("only", "other")))
    assert message == "config.schedule names 'other': expected one of only (config.phases)"

  def test_a_phase_that_is_not_named(self):
    phases = {"only": {"objective": {"name": "backprop"}}, "other": {"objective": {"name": "backprop"}}}
    assert message_of(parsing.parse, small_config(phases=phases)).startswith("config.phases.other: config.schedule")

  def test_a_run_without_phases(self):
    assert message_of(parsing.parse, small_config(schedule=(), phases={})).startswith("config.schedule")


class TestHsicConfig:
  @pytest.mark.parametrize("variant", VARIANTS)
  def test_every_variant_parses(self, variant):
    settings = parsing.parse(hsic.get_config(variant))
    assert list(settings.schedule) == list(settings.phases)

  def test_the_order_of_variants_does_not_matter(self):
    assert hsic.get_config("demo,backprop") == hsic.get_config("backprop,demo")

  @pytest.mark.parametrize("variant", ["nobody", "demo,nobody", "Demo"])
  def test_an_unknown_variant_names_itself_and_the_others(self, variant):
    with pytest.raises(
      ValueError, match=r"no variant '(nobody|Demo)': expected any of paper, small, demo, blockwise, backprop"
    ):
      hsic.get_config(variant)

  def test_the_twin_differs_in_its_objective_alone(self):
    default, twin = parsing.parse(hsic.get_config()), parsing.parse(hsic.get_config("backprop"))
    assert (twin.model, twin.data, twin.augmentation) == (default.model, default.data, default.augmentation)
    assert (twin.duration, twin.batch_size) == (default.duration, default.batch_size)
    assert twin.phases["backprop"].optimizer == default.phases["bottleneck"].optimizer


def test_a_paper_s_figures_of_a_class_are_three_or_the_recall():
  of_class = {**hsic.get_config("demo").to_dict(), "paper": {"by_class": {"angry": 0.9}}}
  assert parsing.parse(ConfigDict(of_class)).paper.by_class["angry"] == (0.9,)
  of_class["paper"]["by_class"] = {"angry": (0.9, 0.8)}
  with pytest.raises(UserError, match=r"by_class\.angry=\(0\.9, 0\.8\): expected precision, recall and F1, or the rec"):
    parsing.parse(ConfigDict(of_class))
