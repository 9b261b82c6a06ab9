"""Classifies faces with an exported network. Requires jax, numpy, and flatbuffers (used by jax.export).

Usage:
  python load_exported.py FILE.npz FACES.npy   # FACES: uint8 [B, H, W, C], or one face [H, W, C]
"""

import json
import sys

import jax
import numpy as np
from jax import export


def load(path):  # type: ignore[no-untyped-def]
  """Loads an exported network.

  Args:
    path: Path of the .npz file.

  Returns:
    Tuple (program, class_names, metadata): the compiled function from faces, uint8 [B, H, W, C], to probabilities,
    float32 [B, K]; the K class names; and a dict of metadata.
  """
  with open(path, "rb") as file, np.load(file) as arrays:
    program = export.deserialize(bytearray(arrays["program"]))
    return jax.jit(program.call), arrays["class_names"].tolist(), json.loads(str(arrays["metadata"]))


if __name__ == "__main__":
  classify, names, _ = load(sys.argv[1])
  faces = np.load(sys.argv[2])
  for row in classify(faces[None] if faces.ndim == 3 else faces):  # raises ValueError for other shapes
    print(json.dumps(dict(zip(names, row.tolist(), strict=True))))
