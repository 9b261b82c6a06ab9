"""The builder: datasets written by download_and_prepare and read back from disk."""

import hashlib
import itertools
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from fer_jax.data.arrays import SPLITS
from fer_jax.data.builders.synthetic_faces.builder import SyntheticFaces, SyntheticFacesConfig
from fer_jax.data.builders.synthetic_faces.expressions import EXPRESSIONS
from fer_jax.data.builders.synthetic_faces.images import render_image

SUBJECTS = (4, 2, 3)


def prepared(data_dir: pathlib.Path, **changes: int) -> SyntheticFaces:
  settings = {"size": 32, "subjects": SUBJECTS, "repetitions": 2} | changes
  builder = SyntheticFaces(config=SyntheticFacesConfig(name="tiny", **settings), data_dir=data_dir)
  builder.download_and_prepare(file_format="array_record")
  return builder


def read(builder: SyntheticFaces) -> dict[str, list[dict]]:
  return {split: list(source) for split, source in builder.as_data_source().items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SyntheticFaces:
  return prepared(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def splits(tiny: SyntheticFaces) -> dict[str, list[dict]]:
  return read(tiny)


def test_each_split_has_every_subject_with_every_expression(tiny: SyntheticFaces, splits: dict) -> None:
  assert tuple(splits) == SPLITS
  for (split, examples), subjects in zip(splits.items(), SUBJECTS, strict=True):
    assert tiny.info.splits[split].num_examples == len(examples) == subjects * len(EXPRESSIONS) * 2
    pairs = [(example["subject"], int(example["label"])) for example in examples]
    assert len(set(pairs)) == subjects * len(EXPRESSIONS)
    assert all(pairs.count(pair) == 2 for pair in pairs)


def test_splits_share_no_subjects(splits: dict) -> None:
  subjects = [{example["subject"] for example in examples} for examples in splits.values()]
  for first, second in itertools.combinations(subjects, 2):
    assert not first & second


def test_records_are_in_the_order_of_their_index(splits: dict) -> None:
  index = [int(example["index"]) for examples in splits.values() for example in examples]
  assert index == list(range(sum(SUBJECTS) * len(EXPRESSIONS) * 2))


def test_every_image_is_unique_and_its_own_group(splits: dict) -> None:
  examples = [example for split in splits.values() for example in split]
  assert len({example["group"] for example in examples}) == len(examples)
  assert len({hashlib.sha256(example["image"].tobytes()).digest() for example in examples}) == len(examples)


def test_images_and_class_names_are_read_back_unchanged(tiny: SyntheticFaces, splits: dict) -> None:
  names = tiny.info.features["label"].names
  assert names == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
  for examples in splits.values():
    example = examples[-1]
    subject = int(example["subject"].decode().removeprefix("S"))
    drawn = render_image(0, subject, names[int(example["label"])], 1, 32)
    np.testing.assert_array_equal(example["image"], drawn[..., None])


def test_images_depend_on_the_seed_and_not_on_the_number_of_subjects(splits: dict, tmp_path: pathlib.Path) -> None:
  def first(directory: str, **changes) -> np.ndarray:
    return read(prepared(tmp_path / directory, subjects=(1, 1, 1), **changes))["train"][0]["image"]

  original = splits["train"][0]["image"]
  np.testing.assert_array_equal(first("fewer"), original)
  assert not np.array_equal(first("seeded", seed=1), original)


def test_named_configurations_have_the_documented_sizes(tmp_path: pathlib.Path) -> None:
  assert [config.name for config in SyntheticFaces.BUILDER_CONFIGS] == ["48px", "128px"]
  builder = SyntheticFaces(data_dir=tmp_path)
  assert builder.builder_config.name == "48px"
  assert builder.info.features["image"].shape == (48, 48, 1)
  assert isinstance(builder.info.features["subject"], tfds.features.Text)
  per_subject = len(EXPRESSIONS) * builder.builder_config.repetitions
  assert [subjects * per_subject for subjects in builder.builder_config.subjects] == [4200, 735, 735]
