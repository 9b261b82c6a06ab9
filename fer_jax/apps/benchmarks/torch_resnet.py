"""PyTorch counterparts of our residual networks, for the benchmarks and as the reference for converted weights.

Parameters have torchvision's names, so that a state_dict fits both. This file is imported only if PyTorch is installed.
"""

import torch
from torch import Tensor, nn

# Depth -> number of blocks in each of the four stages.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
BOTTLENECK_FROM = 50  # minimum depth of networks with bottleneck blocks
STEMS = {"small": (3, 1), "strided": (3, 2), "imagenet": (7, 2)}  # kernel size and stride of the first convolution
EXPANSION = 4  # output channels of a bottleneck block, relative to those of its 3x3 convolution


class Block(nn.Module):
  """Residual block: adds the input to a branch of two or three convolutions, then applies a ReLU.

  Args:
    inputs: Channels of the input.
    features: Channels of the 3x3 convolutions.
    stride: Stride of the block.
    bottleneck: Whether the branch is 1x1, 3x3, 1x1 with `EXPANSION * features` output channels; otherwise 3x3, 3x3.
  """

  def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool):
    super().__init__()
    self.outputs = features * (EXPANSION if bottleneck else 1)
    self.bottleneck = bottleneck
    if bottleneck:
      self.conv1 = convolution(inputs, features, 1)
      self.bn1 = nn.BatchNorm2d(features)
      self.conv2 = convolution(features, features, 3, stride)
      self.bn2 = nn.BatchNorm2d(features)
      self.conv3 = convolution(features, self.outputs, 1)
      self.bn3 = nn.BatchNorm2d(self.outputs)
    else:
      self.conv1 = convolution(inputs, features, 3, stride)
      self.bn1 = nn.BatchNorm2d(features)
      self.conv2 = convolution(features, features, 3)
      self.bn2 = nn.BatchNorm2d(features)
    self.downsample: nn.Module | None = None
    if stride != 1 or inputs != self.outputs:
      self.downsample = nn.Sequential(convolution(inputs, self.outputs, 1, stride), nn.BatchNorm2d(self.outputs))

  def forward(self, x: Tensor) -> Tensor:
    """Maps [B, C, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
    y = torch.relu(self.bn1(self.conv1(x)))
    y = self.bn2(self.conv2(y))
    if self.bottleneck:
      y = self.bn3(self.conv3(torch.relu(y)))
    return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Extractor(nn.Module):
  """Residual network without its classifier.

  Args:
    depth: Number of layers: 18, 34 or 50.
    width: Channels of the first stage.
    stem: First layers: "small" (3x3, stride 1), "strided" (3x3, stride 2) or "imagenet" (7x7, stride 2, followed by 3x3
      max pooling with stride 2).
    channels: Channels of the image.
  """

  def __init__(self, depth: int = 34, width: int = 64, stem: str = "imagenet", channels: int = 3):
    super().__init__()
    self.conv1 = convolution(channels, width, *STEMS[stem])
    self.bn1 = nn.BatchNorm2d(width)
    self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
    self.features = width
    self.layer1, self.layer2, self.layer3, self.layer4 = (
      self._stage(width * 2**stage, blocks, 2 if stage else 1, depth >= BOTTLENECK_FROM)
      for stage, blocks in enumerate(BLOCKS[depth])
    )

  def _stage(self, features: int, blocks: int, stride: int, bottleneck: bool) -> nn.Sequential:
    stage = []
    for i in range(blocks):
      stage.append(Block(self.features, features, stride if i == 0 else 1, bottleneck))
      self.features = stage[-1].outputs
    return nn.Sequential(*stage)

  def forward(self, image: Tensor) -> Tensor:
    """Maps images [B, channels, H, W] to the feature map of the last stage [B, features, h, w]."""
    x = self.maxpool(torch.relu(self.bn1(self.conv1(image))))
    return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResNet(Extractor):
  """Residual network with the layout of torchvision's.

  Args:
    num_classes: Number of classes K.
    depth: Number of layers; see `Extractor`.
    width: Channels of the first stage.
    stem: First layers: "small", "strided" or "imagenet"; see `Extractor`.
    channels: Channels of the image.
  """

  def __init__(self, num_classes: int, depth: int = 34, width: int = 64, stem: str = "imagenet", channels: int = 3):
    super().__init__(depth, width, stem, channels)
    self.fc = nn.Linear(self.features, num_classes)

  def forward(self, image: Tensor) -> Tensor:
    """Maps images [B, channels, H, W] to logits [B, K]."""
    return self.fc(super().forward(image).mean((2, 3)))


class BilinearResNet(nn.Module):
  """Classifies the sum over all positions of the outer product of two extractors' features: Lin et al. 2015.

  Bilinear CNN Models for Fine-grained Visual Recognition (arXiv:1504.07889). The signed square roots of the products
  are L2-normalised before the classifier.

  Args:
    num_classes: Number of classes K.
    shared: Whether one extractor provides both factors.
    depth: Number of layers of each extractor; see `Extractor`.
    width: Channels of the first stage.
    stem: First layers: "small", "strided" or "imagenet"; see `Extractor`.
    channels: Channels of the image.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    shared: bool = False,
    depth: int = 34,
    width: int = 64,
    stem: str = "imagenet",
    channels: int = 3,
  ):
    super().__init__()
    self.a = Extractor(depth, width, stem, channels)
    self.b = None if shared else Extractor(depth, width, stem, channels)
    self.fc = nn.Linear(self.a.features**2, num_classes)

  def forward(self, image: Tensor) -> Tensor:
    """Maps images [B, channels, H, W] to logits [B, K]."""
    a = self.a(image).flatten(2)  # [B, features, h * w]
    b = a if self.b is None else self.b(image).flatten(2)
    x = torch.bmm(a, b.transpose(1, 2)).flatten(1)  # [B, features^2]
    # The constants keep the gradients of both roots finite at zero.
    x = x * (x.abs() + 1e-5) ** -0.5
    x = x * (x.square().sum(1, keepdim=True) + 1e-12) ** -0.5
    return self.fc(x)


def convolution(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
  """Returns a convolution with symmetric padding and a kernel from the normal distribution of He et al. 2015."""
  convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False)
  nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
  return convolution
