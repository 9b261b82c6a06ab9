import pytest

from fer_jax.models.baselines.densenet import DenseNet
from tests.models.baselines.shapes import imagenet_parameters, traced


@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_has_121_layers_and_the_parameter_count_of_torchvision(stem):
  settings = DenseNet(stem=stem)
  weighted = [name for name in settings.build(7, float, None).layers if name != "norm"]
  assert sum(2 if "_" in name else 1 for name in weighted) == 121
  assert imagenet_parameters(settings) == 7_978_856


def test_layers_read_all_earlier_outputs_of_their_block():
  params = traced(DenseNet((3, 2), growth=4)).params
  read = {name: layer["conv1"]["conv"]["kernel"].shape[2] for name, layer in params.items() if "_" in name}
  assert read == {"block1_1": 8, "block1_2": 12, "block1_3": 16, "block2_1": 10, "block2_2": 14}
  assert params["transition1"]["conv"]["kernel"].shape == (1, 1, 20, 10)
  assert params["norm"]["norm"]["scale"].shape == (18,)


@pytest.mark.parametrize(
  ("stem", "size", "sides"), [("small", 48, [48, 24, 12, 6]), ("imagenet", 224, [56, 28, 14, 7])]
)
def test_transitions_halve_the_resolution(stem, size, sides):
  outputs = traced(DenseNet((1, 1, 1, 1), 2, stem), size).outputs
  assert [outputs[f"block{i}_1"].shape[1] for i in (1, 2, 3, 4)] == sides


@pytest.mark.parametrize("layers", [(), (3, 0)])
def test_rejects_blocks_without_layers(layers):
  with pytest.raises(ValueError, match=r"^model\.layers=\("):
    DenseNet(layers)
