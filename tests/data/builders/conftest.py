"""Fixtures that prepare small datasets and read them back."""

import dataclasses
import pathlib
from collections import Counter

import pytest
import tensorflow_datasets as tfds

from fer_jax.data import builders


@dataclasses.dataclass
class Prepared:
  """A prepared dataset: its records, in order, its class names and its metadata."""

  records: list[dict]
  class_names: list[str]
  metadata: dict

  def counts(self) -> dict[str, int]:
    return dict(Counter(self.class_names[record["label"]] for record in self.records))

  def column(self, name: str) -> list[str]:
    return [record[name].decode() for record in self.records]

  def warning(self, text: str) -> str:
    (line,) = (line for line in self.metadata["warnings"] if text in line)
    return line


@pytest.fixture
def prepared(tmp_path):
  """Function that prepares a dataset from a folder and reads it without decoding the images."""

  def prepare(name: str, manual_dir: pathlib.Path | None) -> Prepared:
    builder = builders.prepare(name, str(tmp_path / "data"), manual_dir and str(manual_dir), overwrite=True)
    assert list(builder.info.splits) == ["train"]
    records = list(builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()}))
    assert [record["index"] for record in records] == list(range(len(records)))
    return Prepared(records, builder.info.features["label"].names, dict(builder.info.metadata))

  return prepare
