"""Variants of configs/separable_se.py: datasets, protocols and networks, and the figures of the paper."""

import re

import numpy as np
import pytest

from configs import separable_se
from configs.separable_se import DATASETS, get_config
from fer_jax.config.parsing import parse
from fer_jax.data.arrays import Arrays
from fer_jax.data.expansion import factors

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
# Table 2 of the paper: images per class in the order of CLASSES, number after expansion, and number of test images.
TABLE2 = {
  "ck_plus": ((95, 79, 72, 108, 110, 108, 228), 12_000, 1_200),
  "jaffe": ((30, 29, 32, 31, 32, 30, 29), 10_650, 1_065),
  "oulu_casia": ((476, 462, 505, 484, 453, 484, 8_016), 22_336, 1_450),
}


@pytest.mark.parametrize("dataset", TABLE2)
def test_expansion_and_folds_give_the_numbers_of_the_paper(dataset):
  counts, expanded, tested = TABLE2[dataset]
  label = np.repeat(np.arange(7), counts).astype(np.int32)
  zeros = np.zeros(len(label), np.int32)
  arrays = Arrays(np.zeros((len(label), 1, 1, 1), np.uint8), label, zeros.astype(str), zeros, zeros, CLASSES)
  settings = parse(get_config(dataset))
  assert factors(arrays, settings.expansion).sum() == expanded
  assert (settings.expansion.protocol, settings.folds.by, settings.replicas) == ("paper", "images", 1)
  # 1,450 does not divide the number of images of Oulu-CASIA.
  assert expanded / settings.folds.count == pytest.approx(tested, rel=0 if dataset != "oulu_casia" else 0.03)


def test_default_recipe_is_that_of_the_paper():
  config = get_config()
  optimizer = config.phases.whole.optimizer
  assert (config.batch_size, config.duration, config.data.image_size) == (32, "30 epochs", 48)
  assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.01, 0.9)
  assert (config.model.dropout, config.model.reduction, config.model.residual) == (0.5, 4, True)
  assert config.phases.whole.objective.center_weight == 0.003
  assert config.paper.reported.to_dict() == {"test accuracy": 0.9757}


@pytest.mark.parametrize(
  ("variant", "by", "replicas"),
  [
    ("honest", "subjects", 0),
    ("jaffe,one_subject_out", "one_subject_out", 0),
    ("oulu_casia,honest,single", "subjects", 1),
    ("demo", "", 1),  # the built-in faces have their own splits
    ("drawn,one_subject_out,demo", "one_subject_out", 0),
  ],
)
def test_honest_protocol_keeps_subjects_in_one_split(variant, by, replicas):
  config = get_config(variant)
  assert (config.expansion.protocol, config.folds.by, config.replicas) == ("honest", by, replicas)
  if config.paper.title:
    assert separable_se.NOT_HERE in config.paper.note


@pytest.mark.parametrize(
  ("variant", "name"),
  [
    ("table1", "separable_se"),
    ("two_channel", "two_channel"),
    ("bn_inception", "bn_inception"),
    ("xception", "xception"),
    ("mini_xception,small", "mini_xception"),
  ],
)
def test_word_selects_the_network(variant, name):
  config = get_config(variant)
  assert config.model.name == name
  if name in ("separable_se", "two_channel"):
    assert config.model.residual == (variant != "table1")
  reported = config.paper.reported.to_dict()
  assert reported == {"bn_inception": {"test accuracy": 0.9458}, "xception": {"test accuracy": 0.963}}.get(
    name, {"test accuracy": 0.9757} if name == "two_channel" else {}
  )


def test_order_of_words_does_not_matter():
  assert get_config("jaffe,honest,small") == get_config("small,honest,jaffe")


@pytest.mark.parametrize(
  ("variant", "message"),
  [
    ("jaffe,ck_plus", f"ck_plus and jaffe exclude one another; expected one of {', '.join(DATASETS)}"),
    ("paper,honest", "paper and honest exclude one another"),
    ("jaffe,demo", "demo uses drawn people"),
    ("affectnet", "has no variant 'affectnet'"),
  ],
)
def test_rejects_contradictory_and_unknown_words(variant, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    get_config(variant)
