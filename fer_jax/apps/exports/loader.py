"""Classifies faces with an exported network; needs jax, numpy, and flatbuffers, with which jax.export reads its files.

python load_exported.py FILE.npz FACES.npy   # uint8 [B, H, W, C], or one face [H, W, C]
"""

import json
import sys

import jax
import numpy as np
from jax import export


def load(path):  # type: ignore[no-untyped-def]
  """Returns the program, uint8 [B, H, W, C] -> float32 [B, K], the K class names, and what the file says of itself."""
  with open(path, "rb") as file, np.load(file) as arrays:
    program = export.deserialize(bytearray(arrays["program"]))
    return jax.jit(program.call), arrays["class_names"].tolist(), json.loads(str(arrays["metadata"]))


if __name__ == "__main__":
  classify, names, _ = load(sys.argv[1])
  faces = np.load(sys.argv[2])
  for row in classify(faces[None] if faces.ndim == 3 else faces):  # which raises ValueError for any other shape
    print(json.dumps(dict(zip(names, row.tolist(), strict=True))))
