import jax
import pytest

from fer_jax.models.baselines.vgg import Vgg
from tests.models.baselines.shapes import count, imagenet_parameters, traced


@pytest.mark.parametrize(("depth", "published"), [(13, 133_047_848), (16, 138_357_544), (19, 143_667_240)])
def test_has_the_parameter_count_of_torchvision(depth, published):
  assert imagenet_parameters(Vgg(depth)) == published


def test_normalised_parameter_count_matches_torchvision_without_biases():
  found = traced(Vgg(batch_norm=True), 224, 3, 1000)
  biases = count(found.stats) // 2  # the statistics have a mean and a variance per channel
  assert count(found.params) + biases == 143_678_248


def test_image_of_48_pixels_is_reduced_to_one_cell():
  found = traced(Vgg())
  assert found.params["fc6"]["linear"]["kernel"].shape == (512, 4096)
  assert [found.outputs[f"conv{stage}_1"].shape[1] for stage in range(1, 6)] == [48, 24, 12, 6, 3]


def test_has_no_statistics_without_normalisation():
  assert not jax.tree.leaves(traced(Vgg()).stats)
