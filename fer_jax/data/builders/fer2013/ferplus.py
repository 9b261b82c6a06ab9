"""FER+: the votes of ten annotators for every row of fer2013.csv, and the labels computed from them.

Barsoum, Zhang, Canton Ferrer and Zhang, "Training deep networks for facial expression recognition with
crowd-sourced label distribution", ICMI 2016, https://arxiv.org/abs/1608.01041.
"""

import pathlib

import numpy as np

from fer_jax.data.builders.fer2013 import csv_form
from fer_jax.data.builders.fer2013.raw import CLASS_NAMES
from fer_jax.runtime.errors import UserError

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

# Weight of the votes in a blended target. It is below one half, so the original label stays the most probable class.
BLEND = 0.3

# Index in COLUMNS of each entry of EMOTIONS.
_EMOTION_COLUMNS = (4, 5, 6, 1, 3, 2, 0, 7)


def read_votes(path: pathlib.Path, split: np.ndarray) -> np.ndarray:
  """Reads the votes for the rows of fer2013.csv.

  The two files are joined by row number, because image names are not usable as keys: 173 rows of the official file have
  no image name, and four names occur twice.

  Args:
    path: The file fer2013new.csv.
    split: Split of each row of fer2013.csv, str array of shape [N].

  Returns:
    Number of votes, uint8 [N, 10], in the order of COLUMNS.

  Raises:
    UserError: A vote is not a number or a row's Usage differs from that in fer2013.csv (the message contains the file
      and the row), or the two files have different numbers of rows.
  """
  usage_by_split = {split: usage for usage, split in csv_form.SPLIT_BY_USAGE.items()}
  votes: list[list[int]] = []
  for line, (usage, *counts) in csv_form.read_columns(path, ("Usage", *COLUMNS)):
    for name, count in zip(COLUMNS, counts, strict=True):
      if not (count.isascii() and count.isdecimal()) or int(count) > 255:
        raise UserError(
          f"{path}, row {line}: column {name} is {count[:20]!r}, expected an integer number of votes: "
          "download or copy the file again"
        )
    # Surplus rows are compared with themselves here; the row count after the loop reports them.
    expected = usage_by_split[split[len(votes)]] if len(votes) < len(split) else usage
    if usage != expected:
      raise UserError(
        f"{path}, row {line}: Usage is {usage[:20]!r}, expected {expected!r} as in the FER2013 file next to it; "
        "the two files must match row by row: use both as they were published"
      )
    votes.append([int(count) for count in counts])
  if len(votes) != len(split):
    raise UserError(
      f"{path} has {len(votes)} rows, expected {len(split)} as in the FER2013 file next to it; the two files must "
      "match row by row: use both as they were published, or remove this one"
    )
  return np.array(votes, np.uint8)


def labels(votes: np.ndarray, original: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Computes labels over the eight EMOTIONS from votes.

  A row is left out if `unknown` or `NF` (not a face) has more votes than every emotion. Ties between emotions are
  resolved in favour of the row's original label if it is among the tied ones, else of the first in EMOTIONS.

  Args:
    votes: Number of votes, uint8 [N, 10], in the order of COLUMNS.
    original: Labels of fer2013.csv, int array of shape [N].

  Returns:
    keep: Mask of the rows to keep, bool [N].
    hard: Index in EMOTIONS of the emotion with the most votes, int32 [N].
    soft: Fraction of the emotion votes for each emotion, float32 [N, 8]; zeros if no emotion has a vote.
  """
  emotions = votes[:, _EMOTION_COLUMNS].astype(np.int32)  # [N, 10] -> [N, 8]
  most = emotions.max(axis=1)
  # The columns after the emotions are `unknown` and `NF`.
  keep = (most > 0) & (most >= votes[:, len(EMOTIONS) :].max(axis=1))
  original_is_tied = emotions[np.arange(len(votes)), original] == most
  hard = np.where(original_is_tied, original, emotions.argmax(axis=1)).astype(np.int32)
  soft = emotions / np.maximum(emotions.sum(axis=1, keepdims=True), 1)  # `maximum` avoids 0 / 0.
  return keep, hard, soft.astype(np.float32)


def blended(votes: np.ndarray, original: np.ndarray) -> np.ndarray:
  """Computes training targets that blend the original labels with the votes.

  target = (1 - BLEND) * onehot(original) + BLEND * share, where share is each class's fraction of the votes for the
  seven classes. Votes for contempt, unknown and no face are ignored. For a row without any other vote, the target is
  onehot(original).

  Args:
    votes: Number of votes, uint8 [N, 10], in the order of COLUMNS.
    original: Labels of fer2013.csv, int array of shape [N].

  Returns:
    Target distributions, float32 [N, 7]; the original label has the largest probability.
  """
  counts = votes[:, _EMOTION_COLUMNS[: len(CLASS_NAMES)]].astype(np.float32)  # [N, 10] -> [N, 7]
  onehot = np.eye(len(CLASS_NAMES), dtype=np.float32)[original]
  total = counts.sum(axis=1, keepdims=True)
  share = np.where(total > 0, counts / np.maximum(total, 1), onehot)
  return ((1 - BLEND) * onehot + BLEND * share).astype(np.float32)
