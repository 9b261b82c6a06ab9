"""Published networks, one per file. `MODELS` maps `config.model.name` to the settings class of a network."""

from typing import Protocol

import jax.numpy as jnp

from fer_jax.models.baselines.alexnet import AlexNet
from fer_jax.models.baselines.bn_inception import BnInception
from fer_jax.models.baselines.densenet import DenseNet
from fer_jax.models.baselines.mini_xception import MiniXception
from fer_jax.models.baselines.mobilenet_v3 import MobileNetV3
from fer_jax.models.baselines.vgg import Vgg
from fer_jax.models.baselines.xception import Xception
from fer_jax.models.bilinear import Bilinear
from fer_jax.models.ca_resnet import CaResNet
from fer_jax.models.hsic_dense import HsicDense
from fer_jax.models.network import Network
from fer_jax.models.resnet import CifarResNet, ResNet
from fer_jax.models.separable_se import SeparableSe
from fer_jax.models.two_channel import TwoChannel


class ModelSettings(Protocol):
  """Hyper-parameters of a network: a frozen dataclass whose fields are the keys of `config.model`."""

  def build(self, num_classes: int, dtype: jnp.dtype, axis_name: str | None) -> Network:
    """Returns the network.

    Args:
      num_classes: Number of classes K.
      dtype: Dtype of the computation; parameters, batch statistics and logits are float32.
      axis_name: Mapped axis of devices over which batch statistics are averaged; None on one device.
    """


MODELS: dict[str, type[ModelSettings]] = {
  "hsic_dense": HsicDense,
  "resnet": ResNet,
  "cifar_resnet": CifarResNet,
  "ca_resnet": CaResNet,
  "bilinear": Bilinear,
  "separable_se": SeparableSe,
  "two_channel": TwoChannel,
  "alexnet": AlexNet,
  "bn_inception": BnInception,
  "vgg": Vgg,
  "densenet": DenseNet,
  "mobilenet_v3": MobileNetV3,
  "mini_xception": MiniXception,
  "xception": Xception,
}
