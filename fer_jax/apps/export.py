"""Writes a trained network as a file that is used without this project: StableHLO, for jax, or ONNX.

Examples:
  python -m fer_jax.apps.export --checkpoint=WORKDIR --format=stablehlo --out=faces.npz
  python load_exported.py faces.npz FACES.npy
  python -m fer_jax.apps.export --checkpoint=WORKDIR --format=onnx --out=faces.onnx

Both take uint8 faces [B, H, W, C], any number at once, as they were cut from their pictures, and return probabilities
[B, K]. Each file is run and compared with the network before it appears.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from fer_jax import classifier as classifiers
from fer_jax.apps.exports import onnx, stablehlo
from fer_jax.classifier import Classifier
from fer_jax.errors import run

# Each writes a network to a path and returns the largest difference of a probability.
FORMATS: dict[str, Callable[[Classifier, Path], float]] = {"stablehlo": stablehlo.write, "onnx": onnx.write}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the program; raises UserError where a flag is wrong or no run has finished in the folder."""
  flags = _parser().parse_args(arguments)
  classifier = classifiers.load(flags.checkpoint)
  difference = FORMATS[flags.format](classifier, flags.out)
  height, width, channels = classifier.shape
  print(f"{flags.out}: {flags.out.stat().st_size / 1e6:,.2f} MB, {', '.join(classifier.class_names)}")
  print(f"  input: faces of {height}x{width}, {'grey' if channels == 1 else 'RGB'}, uint8 [B, H, W, {channels}]")
  print(f"  compared with the network: probabilities differ by {difference:.1g} at most")
  if flags.format == "stablehlo":
    loader = flags.out.with_name(stablehlo.LOADER)
    print(f"  to run it, without fer_jax: python {loader} {flags.out} FACES.npy")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.export",
    description="Writes a trained network, its preprocessing and softmax included, as a file that needs no fer_jax. "
    "stablehlo: a .npz for jax, with its loader beside it; onnx: for onnxruntime and others.",
  )
  parser.add_argument("--checkpoint", required=True, type=Path, metavar="WORKDIR", help="folder of a finished run")
  parser.add_argument("--format", required=True, choices=sorted(FORMATS), help="which form")
  parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the file to write")
  return parser


if __name__ == "__main__":
  run(main)
