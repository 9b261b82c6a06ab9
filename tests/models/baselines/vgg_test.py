import jax
import pytest

from fer_jax.models.baselines.vgg import Vgg
from tests.models.baselines.shapes import count, imagenet_parameters, traced


@pytest.mark.parametrize(("depth", "published"), [(13, 133_047_848), (16, 138_357_544), (19, 143_667_240)])
def test_has_as_many_parameters_as_torchvisions(depth, published):
  assert imagenet_parameters(Vgg(depth)) == published


def test_normalised_it_has_torchvisions_parameters_but_the_biases_that_normalisation_cancels():
  found = traced(Vgg(batch_norm=True), 224, 3, 1000)
  biases = count(found.stats) // 2  # a mean and a variance stand for each channel
  assert count(found.params) + biases == 143_678_248


def test_a_face_of_48_pixels_ends_as_one_cell():
  found = traced(Vgg())
  assert found.params["fc6"]["linear"]["kernel"].shape == (512, 4096)
  assert [found.outputs[f"conv{stage}_1"].shape[1] for stage in range(1, 6)] == [48, 24, 12, 6, 3]


def test_without_normalisation_there_are_no_statistics():
  assert not jax.tree.leaves(traced(Vgg()).stats)
