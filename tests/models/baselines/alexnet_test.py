from fer_jax.models.baselines.alexnet import AlexNet
from tests.models.baselines.shapes import imagenet_parameters, traced


def test_has_the_parameter_count_of_torchvision():
  assert imagenet_parameters(AlexNet("imagenet")) == 61_100_840


def test_fully_connected_layers_read_all_cells_of_the_grid():
  inputs = {
    (stem, size, grid): traced(AlexNet(stem, grid=grid), size).params["fc6"]["linear"]["kernel"].shape[0]
    for stem, size, grid in [("small", 48, 6), ("small", 48, 2), ("imagenet", 224, 6), ("imagenet", 63, 6)]
  }
  assert list(inputs.values()) == [256 * cells**2 for cells in (4, 2, 6, 1)]
