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
  """Returns a minimal config with only the required keys."""
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


def value_at(mapping, path):
  for key in path:
    mapping = mapping[key]
  return mapping


FULL = hsic.get_config().to_dict()
# Sections whose keys are chosen by the user.
USER_KEYS = {
  ("phases",),
  ("paper", "reported"),
  ("paper", "by_class"),
  ("expansion", "by_class"),
  ("phases", "bottleneck", "objective", "layer_beta"),
}
SECTIONS = [path for path in sections(FULL) if path not in USER_KEYS]
LEAVES = [path for path in leaves(FULL) if path[:2] != ("paper", "reported") and path not in USER_KEYS]


def error_message(function, *arguments):
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
  def test_parses_all_forms(self, value, expected):
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
  def test_rejects_other_values(self, value):
    message = error_message(Duration.parse, value, "config.phases.x.duration")
    assert message.startswith("config.phases.x.duration=")
    assert '"10 epochs"' in message
    assert repr(value) in message

  def test_steps_of_each_unit(self):
    rows, batch_size = 1000, 128
    assert Duration(7, "steps").steps(50, rows, batch_size) == 7
    assert Duration(2, "epochs").steps(50, rows, batch_size) == round(2 * 1000 / 128)
    assert Duration(0.3, "share").steps(50, rows, batch_size) == 15

  @pytest.mark.parametrize("unit", ["steps", "epochs", "share"])
  def test_is_at_least_one_step(self, unit):
    assert Duration(0, unit).steps(50, 1000, 128) == 1


class TestComplete:
  @pytest.mark.parametrize("variant", VARIANTS)
  def test_is_idempotent(self, variant):
    completed = hsic.get_config(variant)
    assert parsing.complete(completed) == completed
    assert parsing.parse(parsing.complete(completed)) == parsing.parse(completed)

  @pytest.mark.parametrize("duration", [1_000_000, "1234567 steps", "0.00001 epochs", 0.123456, 1.0, 1e-7])
  def test_preserves_durations(self, duration):
    once = parsing.complete(small_config(duration=duration))
    assert parsing.parse(once).duration == Duration.parse(duration, "")
    assert parsing.complete(once) == once

  def test_adds_all_defaults(self):
    completed = parsing.complete(small_config()).to_dict()
    assert set(leaves(completed["data"])) == set(leaves(FULL["data"]))
    assert completed["phases"]["only"]["optimizer"]["learning_rate"] == 1e-3
    assert completed["model"]["name"] == "hsic_dense"
    assert parsing.parse(small_config()) == parsing.parse(ConfigDict(completed))

  def test_partial_sections_keep_their_own_defaults(self):
    augmentation = parsing.parse(small_config(expansion={"augmentation": {"flip": 0.0}})).expansion.augmentation
    assert augmentation == CopyAugmentation(flip=0.0)
    assert augmentation.rotation != Augmentation().rotation

  def test_does_not_modify_its_argument(self):
    given = small_config()
    before = given.to_dict()
    parsing.complete(given)
    assert given.to_dict() == before


class TestUnknownKeys:
  @pytest.mark.parametrize("path", SECTIONS, ids=".".join)
  def test_names_the_closest_key_in_every_section(self, path):
    mapping = copy.deepcopy(FULL)
    section = value_at(mapping, path)
    known = [key for key in section if key != "name"][-1]
    section[f"{known}x"] = section[known]
    prefix = ".".join(["config", *path])
    assert error_message(parsing.parse, ConfigDict(mapping)) == (
      f"{prefix}.{known}x: no such key; did you mean {prefix}.{known}?"
    )

  def test_lists_the_keys_if_none_is_close(self):
    message = error_message(parsing.parse, small_config(data={"zzz": 1}))
    assert message.startswith("config.data.zzz: no such key; the keys are: crop, data_dir, ")

  @pytest.mark.parametrize("path", LEAVES, ids=".".join)
  def test_override_accepts_exactly_the_keys(self, path):
    full, name = hsic.get_config(), ".".join(path)
    parsing.check_override(full, f"--config.{name}=1")
    parsing.check_override(full, f"-config.{name}=1")
    assert f"did you mean config.{name}?" in error_message(parsing.check_override, full, f"--config.{name}x=1")
    assert f"config.{name}.deeper" in error_message(parsing.check_override, full, f"--config.{name}.deeper=1")

  def test_override_rejects_unknown_sections(self):
    message = error_message(parsing.check_override, hsic.get_config(), "--config.dta.name=x")
    assert message == "config.dta: no such key; did you mean config.data?"

  def test_override_ignores_other_flags(self):
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
      ({"model": {"name": "unknown"}}, "config.model.name='unknown': expected one of hsic_dense"),
      ({"model": {"blocks": 3}}, "config.model.name is missing: expected one of hsic_dense"),
      ({"paper": {"reported": {"accuracy": "high"}}}, "config.paper.reported.accuracy='high': expected float, not str"),
      ({"paper": {"reported": 1.0}}, "config.paper.reported=1.0: expected a section"),
      ({"schedule": 5}, "config.schedule=5: expected "),
      ({"schedule": ("only", 5)}, "config.schedule=5: expected str, not int"),
      ({"duration": "ten steps"}, "config.duration='ten steps': expected steps"),
      ({"phases": 1}, "config.phases=1: expected a section"),
    ],
  )
  def test_rejects_wrong_values(self, changes, start):
    assert error_message(parsing.parse, small_config(**changes)).startswith(start)

  @pytest.mark.parametrize(
    ("phase", "start"),
    [
      ({"objective": {"name": "unknown"}}, "config.phases.only.objective.name='unknown': expected one of backprop, "),
      ({"objective": {}}, "config.phases.only.objective.name is missing"),
      ({}, "config.phases.only.objective is missing"),
      ({"objective": {"name": "backprop"}, "optimizer": {"name": "unknown"}}, "config.phases.only.optimizer: "),
      ({"objective": {"name": "backprop"}, "patience": 0.5}, "config.phases.only.patience=0.5: expected int"),
      ({"objective": {"name": "backprop"}, "duration": 1.5}, "config.phases.only.duration=1.5: expected steps"),
    ],
  )
  def test_rejects_wrong_values_in_a_phase(self, phase, start):
    assert error_message(parsing.parse, small_config(phases={"only": phase})).startswith(start)

  @pytest.mark.parametrize("key", ["model", "phases", "schedule", "duration"])
  def test_rejects_missing_keys(self, key):
    mapping = small_config().to_dict()
    del mapping[key]
    assert error_message(parsing.parse, ConfigDict(mapping)) == f"config.{key} is missing"

  def test_accepts_int_for_float(self):
    settings = parsing.parse(small_config(budget_minutes=8))
    assert isinstance(settings.budget_minutes, float)

  def test_accepts_a_string_for_a_single_name(self):
    assert parsing.parse(small_config(schedule="only")).schedule == ("only",)


class TestSchedule:
  def test_rejects_names_without_a_phase(self):
    message = error_message(parsing.parse, small_config(schedule=("only", "other")))
    assert message == "config.schedule names 'other': expected one of only (config.phases)"

  def test_rejects_unscheduled_phases(self):
    phases = {"only": {"objective": {"name": "backprop"}}, "other": {"objective": {"name": "backprop"}}}
    assert error_message(parsing.parse, small_config(phases=phases)).startswith("config.phases.other: config.schedule")

  def test_rejects_phases_with_projection_heads_of_different_sizes(self):
    objective = {"name": "hsic_bottleneck", "head_layers": 1}
    phases = {"first": {"objective": objective}, "second": {"objective": {**objective, "head_features": 8}}}
    message = error_message(parsing.parse, small_config(phases=phases, schedule=("first", "second")))
    first, second = (f"head_layers=1, head_features={n}, grid=6, channel_groups=0" for n in (256, 8))
    assert f"{first} and {second}: expected the same values" in message

  def test_rejects_an_empty_schedule(self):
    assert error_message(parsing.parse, small_config(schedule=(), phases={})).startswith("config.schedule")


class TestHsicConfig:
  @pytest.mark.parametrize("variant", VARIANTS)
  def test_every_variant_parses(self, variant):
    settings = parsing.parse(hsic.get_config(variant))
    assert list(settings.schedule) == list(settings.phases)

  def test_the_order_of_variants_does_not_matter(self):
    assert hsic.get_config("demo,backprop") == hsic.get_config("backprop,demo")

  @pytest.mark.parametrize("variant", ["unknown", "demo,unknown", "Demo"])
  def test_rejects_unknown_variants(self, variant):
    with pytest.raises(
      ValueError, match=r"no variant '(unknown|Demo)': expected any of paper, small, demo, layerwise, backprop"
    ):
      hsic.get_config(variant)

  def test_backprop_variant_differs_only_in_its_objective(self):
    default, backprop = parsing.parse(hsic.get_config()), parsing.parse(hsic.get_config("backprop"))
    assert (backprop.model, backprop.data, backprop.augmentation) == (default.model, default.data, default.augmentation)
    assert (backprop.duration, backprop.batch_size) == (default.duration, default.batch_size)
    assert backprop.phases["backprop"].optimizer == default.phases["bottleneck"].optimizer


def test_paper_by_class_accepts_one_or_three_figures():
  config = {**hsic.get_config("demo").to_dict(), "paper": {"by_class": {"angry": 0.9}}}
  assert parsing.parse(ConfigDict(config)).paper.by_class["angry"] == (0.9,)
  config["paper"]["by_class"] = {"angry": (0.9, 0.8)}
  with pytest.raises(UserError, match=r"by_class\.angry=\(0\.9, 0\.8\): expected precision, recall and F1, or the rec"):
    parsing.parse(ConfigDict(config))
