"""FER+: ten people's votes on every row of fer2013.csv, and the labels that follow from them.

Barsoum, Zhang, Canton Ferrer and Zhang, "Training deep networks for facial expression recognition with
crowd-sourced label distribution", ICMI 2016, https://arxiv.org/abs/1608.01041.
"""

import pathlib

import numpy as np

from fer_jax.data.builders.fer2013 import csv_form
from fer_jax.data.builders.fer2013.raw import CLASS_NAMES
from fer_jax.errors import UserError

FILE = "fer2013new.csv"
COLUMNS = (
  "neutral",
  "happiness",
  "surprise",
  "sadness",
  "anger",
  "disgust",
  "fear",
  "contempt",
  "unknown",
  "NF",
)
EMOTIONS = (*CLASS_NAMES, "contempt")

# Weight of the votes in a blended target. Below one half, so that the original label stays the most probable class.
BLEND = 0.3

# The columns of EMOTIONS among COLUMNS.
_EMOTION_COLUMNS = (4, 5, 6, 1, 3, 2, 0, 7)


def read_votes(path: pathlib.Path, split: np.ndarray) -> np.ndarray:
  """Reads the votes that belong to the rows of fer2013.csv.

  Rows are joined by their number: in the official file 173 rows have no image name and four names stand
  twice.

  Args:
    path: fer2013new.csv.
    split: str [N], the split of each row of fer2013.csv.

  Returns:
    uint8 [N, 10], in the order of COLUMNS.

  Raises:
    UserError: naming the file and the row, where a vote is no number or a row's Usage differs from
      fer2013.csv's; or if the numbers of rows differ.
  """
  usage_of_split = {split: usage for usage, split in csv_form.SPLIT_OF_USAGE.items()}
  votes: list[list[int]] = []
  for line, (usage, *counts) in csv_form.read_columns(path, ("Usage", *COLUMNS)):
    for name, count in zip(COLUMNS, counts, strict=True):
      if not (count.isascii() and count.isdecimal()) or int(count) > 255:
        raise UserError(
          f"{path}, row {line}: column {name} is {count[:20]!r}, expected a number of votes: "
          "download or copy the file again"
        )
    expected = usage_of_split[split[len(votes)]] if len(votes) < len(split) else usage
    if usage != expected:
      raise UserError(
        f"{path}, row {line}: Usage is {usage[:20]!r}, but the FER2013 file beside it has {expected!r} "
        "there; the two belong together row by row: take both as they were published"
      )
    votes.append([int(count) for count in counts])
  if len(votes) != len(split):
    raise UserError(
      f"{path} has {len(votes)} rows, expected {len(split)} as in the FER2013 file beside it; the two belong "
      "together row by row: take both as they were published, or remove this one"
    )
  return np.array(votes, np.uint8)


def labels(votes: np.ndarray, original: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Turns votes into labels over the eight EMOTIONS.

  A row is left out where `unknown` or `NF` (not a face) has more votes than every emotion. Among emotions
  with equally many votes the row's original label wins if it is one of them, else the first in EMOTIONS.

  Args:
    votes: uint8 [N, 10], in the order of COLUMNS.
    original: int [N], the labels of fer2013.csv.

  Returns:
    keep: bool [N], False for rows left out.
    hard: int32 [N], the emotion with most votes.
    soft: float32 [N, 8], the shares of the emotions' votes; zeros where no emotion has a vote.
  """
  emotions = votes[:, _EMOTION_COLUMNS].astype(np.int32)
  most = emotions.max(axis=1)
  keep = (most > 0) & (most >= votes[:, len(EMOTIONS) :].max(axis=1))
  original_is_among_the_first = emotions[np.arange(len(votes)), original] == most
  hard = np.where(original_is_among_the_first, original, emotions.argmax(axis=1)).astype(np.int32)
  soft = emotions / np.maximum(emotions.sum(axis=1, keepdims=True), 1)
  return keep, hard, soft.astype(np.float32)


def blended(votes: np.ndarray, original: np.ndarray) -> np.ndarray:
  """Blends the votes into the original labels, as targets for training.

  target = (1 - BLEND) onehot(original) + BLEND share, where share is the part of the seven classes' votes that each
  class has. Votes for contempt, unknown or no face do not count; a row without any other vote keeps its original label
  alone.

  Args:
    votes: uint8 [N, 10], in the order of COLUMNS.
    original: int [N], the labels of fer2013.csv.

  Returns:
    float32 [N, 7], distributions whose largest entry is the original label's.
  """
  counts = votes[:, _EMOTION_COLUMNS[: len(CLASS_NAMES)]].astype(np.float32)
  onehot = np.eye(len(CLASS_NAMES), dtype=np.float32)[original]
  total = counts.sum(axis=1, keepdims=True)
  share = np.where(total > 0, counts / np.maximum(total, 1), onehot)
  return ((1 - BLEND) * onehot + BLEND * share).astype(np.float32)
