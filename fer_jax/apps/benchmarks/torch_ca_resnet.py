"""PyTorch counterpart of our residual network with mixed and coordinate attention, for the benchmarks.

Modules have the names of our layers. This file is imported only if PyTorch is installed.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fer_jax.apps.benchmarks.torch_resnet import convolution
from fer_jax.models.ca_resnet import SLOPE, CaResNet

MIN_CHANNELS = 8  # minimum number of channels between the convolutions of coordinate attention


class MixedAttention(nn.Module):
  """Multiplies a feature map by fused channel and spatial attention: `fer_jax.layers.attention.MixedAttention`.

  Args:
    channels: Channels of the feature map.
    reduction: Divisor of the channels that gives the hidden units of the channel attention, at least one.
  """

  def __init__(self, channels: int, reduction: int):
    super().__init__()
    self.channel = nn.ModuleDict(
      {
        "reduce": nn.Linear(channels, max(channels // reduction, 1), bias=False),
        "expand": nn.Linear(max(channels // reduction, 1), channels, bias=False),
      }
    )
    self.spatial = nn.ModuleDict({"conv": convolution(2, 1, 7)})
    self.fuse = nn.Conv2d(2 * channels, channels, 1)

  def forward(self, x: Tensor) -> Tensor:
    """Maps [B, C, H, W] to [B, C, H, W]."""
    pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))])  # [2, B, C]: average and maximum share the two layers
    hidden = torch.relu(self.channel["reduce"](pooled))
    channel = x * torch.sigmoid(self.channel["expand"](hidden).sum(0))[:, :, None, None]
    pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)  # [B, 2, H, W]
    spatial = x * torch.sigmoid(self.spatial["conv"](pooled))
    return torch.relu(x * (1 + self.fuse(torch.cat([channel, spatial], 1))))


class CoordinateAttention(nn.Module):
  """Multiplies a feature map by one gate per row and one per column: `fer_jax.layers.CoordinateAttention`.

  Args:
    channels: Channels of the feature map.
    reduction: Divisor of the channels that gives those between the convolutions, which are at least MIN_CHANNELS.
  """

  def __init__(self, channels: int, reduction: int):
    super().__init__()
    reduced = max(channels // reduction, MIN_CHANNELS)
    self.reduce = convolution(channels, reduced, 1)
    self.norm = nn.BatchNorm2d(reduced)
    self.rows = nn.Conv2d(reduced, channels, 1)
    self.columns = nn.Conv2d(reduced, channels, 1)

  def forward(self, x: Tensor) -> Tensor:
    """Maps [B, C, H, W] to [B, C, H, W]."""
    vectors = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)  # [B, C, H + W, 1]
    vectors = nn.functional.hardswish(self.norm(self.reduce(vectors)))
    rows, columns = vectors.split([x.shape[2], x.shape[3]], 2)  # [B, reduced, H, 1], [B, reduced, W, 1]
    return x * torch.sigmoid(self.rows(rows)) * torch.sigmoid(self.columns(columns.transpose(2, 3)))


class CABasicBlock(nn.Module):
  """Adds the shortcut to the attended residual branch, normalises, activates: `fer_jax.models.ca_resnet.CABasicBlock`.

  Args:
    inputs: Channels of the input.
    features: Channels of the output.
    stride: Stride of the block.
    model: Settings of the network.
  """

  def __init__(self, inputs: int, features: int, stride: int, model: CaResNet):
    super().__init__()
    sizes = model.kernel_sizes
    strided = sizes.index(max(sizes))  # only the largest kernel has the block's stride
    branch: dict[str, nn.Module] = {}
    for i, size in enumerate(sizes):
      if i > 0:
        branch |= {f"norm{i}": nn.BatchNorm2d(features), f"prelu{i}": nn.PReLU(init=SLOPE)}
      branch[f"conv{i + 1}"] = convolution(features if i else inputs, features, size, stride if i == strided else 1)
    branch["attention"] = CoordinateAttention(features, model.coordinate_reduction)
    for name, module in branch.items():
      self.add_module(name, module)
    self.branch = tuple(branch)
    fits = stride == 1 and inputs == features
    self.shortcut = nn.Identity() if fits else convolution(inputs, features, 1, stride)
    self.norm = nn.BatchNorm2d(features)
    self.prelu = nn.PReLU(init=SLOPE)

  def forward(self, x: Tensor) -> Tensor:
    """Maps [B, inputs, H, W] to [B, features, ceil(H / stride), ceil(W / stride)]."""
    y = x
    for name in self.branch:
      y = getattr(self, name)(y)
    return self.prelu(self.norm(self.shortcut(x) + y))


def ca_resnet(num_classes: int, model: CaResNet, channels: int) -> nn.Sequential:
  """Returns the network for K classes: images [B, channels, H, W] -> logits [B, K]."""
  layers: OrderedDict[str, nn.Module] = OrderedDict()
  if model.halve:
    layers["halve"] = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
  layers["stem"] = nn.Sequential(
    OrderedDict(
      conv=convolution(channels, model.width, 3), norm=nn.BatchNorm2d(model.width), activation=nn.PReLU(init=SLOPE)
    )
  )
  layers["attention"] = MixedAttention(model.width, model.reduction)
  layers["pool"] = nn.MaxPool2d(3, 2, padding=1)
  inputs = model.width
  for stage, blocks in enumerate(model.blocks):
    features = model.width * 2**stage
    for i in range(blocks):
      stride = 2 if stage > 0 and i == 0 else 1
      layers[f"layer{stage + 1}_{i}"] = CABasicBlock(inputs, features, stride, model)
      inputs = features
  layers["average"] = nn.AdaptiveAvgPool2d(1)
  layers["flatten"] = nn.Flatten()
  layers["classifier"] = nn.Sequential(
    OrderedDict(dropout=nn.Dropout(model.dropout), linear=nn.Linear(inputs, num_classes))
  )
  return nn.Sequential(layers)
