"""Variants of configs/resnet.py, and the paper's figures in them."""

import pytest

from configs import resnet
from fer_jax.config.parsing import parse
from fer_jax.models.resnet import CifarResNet
from fer_jax.runtime.errors import UserError

ALL_VARIANTS = [
  "",
  *(name for name in resnet.VARIANTS if name != "transfer"),  # has another network, see tests/configs/configs_test.py
  *(f"kind={kind},depth={depth}" for kind, by_depth in resnet.FIG9.items() for depth in by_depth),
  "folds=5",
  "demo,images",
  "first4,kind=plain,small,single,depth=8,folds=3,groups",
]


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_all_variants_parse(variant):
  settings = parse(resnet.get_config(variant))
  assert isinstance(settings.model, CifarResNet)
  assert (settings.batch_size, settings.augmentation.flip, settings.augmentation.shift) == (24, 0.5, 0)
  assert settings.phases["whole"].optimizer.name == "adam"


def test_default_is_that_of_the_paper():
  settings = parse(resnet.get_config())
  assert settings.model == CifarResNet(74, "residual", 16, 0)
  assert (settings.data.name, settings.data.image_size) == ("kdef_ck_plus", 128)
  assert (settings.folds.by, settings.folds.count, settings.replicas) == ("images", 10, 0)


@pytest.mark.parametrize("unit", resnet.UNITS)
def test_word_sets_the_unit_of_the_folds(unit):
  assert resnet.get_config(unit).folds.by == unit
  assert resnet.get_config(f"demo,{unit}").folds.by == unit


def test_order_does_not_matter_and_values_override_words():
  one = resnet.get_config("small,depth=38,kind=plain,folds=4,single,subjects,first4")
  assert one == resnet.get_config("subjects,folds=4,first4,kind=plain,single,depth=38,small")
  settings = parse(one)
  assert settings.model == CifarResNet(38, "plain", 8, 4)
  assert (settings.folds.by, settings.folds.count, settings.replicas) == ("subjects", 4, 1)


@pytest.mark.parametrize("word", ["large", "depth", "kind", "width=4", "=", "Small"])
def test_unknown_variants_give_an_error_that_lists_the_known_ones(word):
  with pytest.raises(ValueError, match=f"configs/resnet.py has no variant '{word}'") as error:
    resnet.get_config(f"small,{word}")
  assert all(known in str(error.value) for known in (*resnet.VARIANTS, "depth=...", "kind=...", "folds=..."))


@pytest.mark.parametrize(
  ("variant", "kind", "message"),
  [
    ("depth=deep", ValueError, "depth=deep: expected a whole number"),
    ("folds=", ValueError, "folds=: expected a whole number"),
    ("depth=20,depth=38", ValueError, "repeated variants"),
    ("images,small,subjects", ValueError, "repeated variants: expected one of images, groups, subjects"),
    ("depth=21", UserError, r"model\.depth=21: expected 6n \+ 2"),
    ("kind=dense", UserError, r"model\.kind='dense': expected one of residual, plain"),
    ("folds=1", UserError, r"folds\.count=1: expected 2 or more"),
  ],
)
def test_rejects_invalid_values(variant, kind, message):
  with pytest.raises(kind, match=message):
    resnet.get_config(variant)


def test_mean_of_table_4_weighted_by_table_3_is_the_accuracy_of_figure_9():
  images = {"neutral": 700, "angry": 740, "disgust": 750, "fear": 720, "happy": 760, "sad": 720, "surprise": 780}
  mean = sum(resnet.TABLE4[name] * count for name, count in images.items()) / sum(images.values())
  assert mean == pytest.approx(resnet.FIG9["residual"][74], abs=0.01)


def test_reported_accuracy_is_that_of_the_kind_and_depth():
  for kind, by_depth in resnet.FIG9.items():
    for depth, percent in by_depth.items():
      paper = parse(resnet.get_config(f"kind={kind},depth={depth}")).paper
      assert dict(paper.reported) == {"test accuracy": pytest.approx(percent / 100)}
      assert f"{kind} network of {depth} layers" in paper.title
      assert set(paper.by_class) == (set(resnet.TABLE4) if (kind, depth) == ("residual", 74) else set())
  assert parse(resnet.get_config()).paper.by_class["fear"] == (0.8222,)
  for variant in ("depth=8", "demo", "demo,depth=20"):
    assert not parse(resnet.get_config(variant)).paper.title


def test_note_tells_whether_subjects_are_in_both_training_and_test():
  for variant, overlap in (("", True), ("groups", False), ("subjects", False)):
    note = parse(resnet.get_config(f"{variant},depth=20")).paper.note
    assert note.startswith("The paper's folds are drawn over images")
    assert ("The same applies here" in note) == overlap
