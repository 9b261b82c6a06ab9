"""ResNet: its sizes, and what its blocks do to a map."""

import pytest

from fer_jax.models.resnet import ResNet
from tests.models.baselines.shapes import imagenet_parameters, traced


@pytest.mark.parametrize(
  ("settings", "published"),
  [
    (ResNet(18, "imagenet"), 11_689_512),
    (ResNet(34, "imagenet"), 21_797_672),
    (ResNet(50, "imagenet"), 25_557_032),
    (ResNet(18, "imagenet", squeeze_excite=True), 11_778_592),
  ],
)
def test_has_the_published_number_of_parameters(settings, published):
  assert imagenet_parameters(settings) == published


@pytest.mark.parametrize(
  ("stem", "size", "sides"),
  [("small", 48, [48, 48, 24, 12, 6]), ("strided", 48, [24, 24, 12, 6, 3]), ("imagenet", 224, [112, 56, 28, 14, 7])],
)
@pytest.mark.parametrize(("depth", "channels"), [(34, [64, 64, 128, 256, 512]), (50, [64, 256, 512, 1024, 2048])])
def test_each_stage_halves_the_map_and_doubles_the_channels(stem, size, sides, depth, channels):
  outputs = traced(ResNet(depth, stem), size).outputs
  firsts = [outputs[name].shape[1:] for name in ("stem", *(f"layer{i}_0" for i in (1, 2, 3, 4)))]
  assert firsts == [(side, side, c) for side, c in zip(sides, channels, strict=True)]
  assert len(outputs) == 1 + 16 + 1


def test_stages_may_be_named_one_by_one():
  assert list(traced(ResNet(blocks=(1, 2), width=4), 48).outputs) == [
    *("stem", "layer1_0", "layer2_0", "layer2_1", "classifier")
  ]
  with pytest.raises(ValueError, match="model.blocks"):
    ResNet(blocks=(1, 0))
