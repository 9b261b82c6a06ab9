"""Convolution, batch normalisation and activation: one hidden layer of a network."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fer_jax.kernels.convolution import convolve


def _relu(x: jax.Array) -> jax.Array:
  # `nn.relu`, with the same gradient. On a CPU, XLA combines its maximum with a following average, which then reads an
  # array of zeros of the size of x.
  return jnp.where(x <= 0, 0, x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": _relu, "tanh": jnp.tanh, "elu": nn.elu}


class Sample(NamedTuple):
  """A grid of positions of a feature map, which stands for the whole map in a local loss.

  Attributes:
    stride: Distance between the positions along both axes.
    offset: Row and column of the first position, each less than `stride`.
  """

  stride: int
  offset: tuple[int, int]

  def positions(self, maps: jax.Array) -> jax.Array:
    """Returns feature maps [B, H, W, C] at these positions, [B, ceil((H - row) / stride), ..., C]."""
    row, column = self.offset
    return maps[:, row :: self.stride, column :: self.stride]


class ConvUnit(nn.Module):
  """Convolution of one or more inputs, followed by normalisation over the (global) batch and an activation.

  Several inputs are concatenated along the channels, each optionally scaled by a learned weight. The weights are
  multiplied into the kernel: scaling the feature maps themselves would require a gradient with respect to the input of
  the convolution, a third of the cost of each training step.

  Attributes:
    features: Number of output channels.
    kernel_size: Size of the kernel along both axes.
    stride: Stride along both axes.
    activation: Name of the activation function, a key of ACTIVATIONS.
    pool: Side of the cells over which the output is averaged; 1 for none.
    weighted_inputs: Whether to learn one weight per input (the parameter `connection` of shape [inputs], initialised
      to ones).
    dtype: Dtype of the computation; parameters and statistics stay float32. Where float16 overflows, the result of the
      convolution is clipped to the largest float16 number, which keeps the normalisation finite.
    axis_name: Name of the mapped device axis over which the batch statistics are averaged; None outside `pmap`.
    sample: Positions of the output that a local loss reads; None without a local loss or if it reads all positions.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  activation: str = "relu"
  pool: int = 1
  weighted_inputs: bool = False
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None
  sample: Sample | None = None

  @nn.compact
  def __call__(
    self, *inputs: jax.Array, train: bool, sampled_inputs: tuple[jax.Array | None, ...] | None = None
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Maps inputs [B, H, W, C_i] to [B, ceil(H / stride) // pool, ceil(W / stride) // pool, features].

    With `sample`, returns the output, which is constant with respect to parameters and inputs, and the output at the
    sampled positions, [B, H', W', features], which is not:

    - Its gradient with respect to the kernel is that of a strided convolution.
    - `sampled_inputs` are the inputs at the same positions, or None where no gradient is wanted; the convolution must
      have stride 1. The gradient with respect to them is exact for a 1x1 kernel. For a larger one it is that of a
      convolution of the samples, by a kernel whose taps are interpolated between sampled positions.
    - Its values differ slightly from those of the output, because it is normalised with its own batch statistics.
    - It is not pooled: with `pool` equal to the stride of the sample, it has one position for each cell.
    """
    channels = [maps.shape[-1] for maps in inputs]
    shape = (self.kernel_size, self.kernel_size, sum(channels), self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
    if self.weighted_inputs:
      weights = self.param("connection", nn.initializers.ones, (len(inputs),), jnp.float32)
      # Scaling the kernel is equivalent to scaling the inputs, and needs no gradient with respect to them.
      of_channel = np.repeat(np.eye(len(inputs), dtype=np.float32), channels, axis=1)  # [inputs, sum(C_i)]
      kernel *= jnp.sum(weights[:, None] * of_channel, axis=0)[None, None, :, None]
    kernel = _saturate(kernel, self.dtype)
    inputs = tuple(_saturate(maps, self.dtype) for maps in inputs)
    # [B, H, W, C_i] -> [B, H, W, sum(C_i)]
    x = _saturate(convolve(_concatenate(inputs), kernel, (self.stride, self.stride), "SAME"), self.dtype)
    norm = functools.partial(
      nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name
    )
    activation = ACTIVATIONS[self.activation]
    output = activation(norm(name="norm")(x))
    if self.pool > 1:
      output = _average_cells(output, self.pool)
    if self.sample is None:
      return output
    samples = None
    if sampled_inputs is not None and any(sample is not None for sample in sampled_inputs):
      constant = map(self.sample.positions, jax.lax.stop_gradient(inputs))
      pairs = zip(sampled_inputs, constant, strict=True)
      samples = _concatenate([other if sample is None else sample for sample, other in pairs])
    geometry = _Geometry(self.kernel_size, self.stride, self.sample)
    sampled = _sampled_convolution(geometry, *jax.lax.stop_gradient((x, inputs)), samples, kernel)
    own, _ = norm(parent=None).apply(
      {name: values["norm"] for name, values in self.variables.items()}, sampled, mutable=["batch_stats"]
    )
    return jax.lax.stop_gradient(output), activation(own)


def _concatenate(inputs: Sequence[jax.Array]) -> jax.Array:
  return jnp.concatenate(inputs, axis=-1) if len(inputs) > 1 else inputs[0]


def _average_cells(maps: jax.Array, side: int) -> jax.Array:
  """Averages feature maps over cells of side x side positions, [B, H, W, C] -> [B, H // side, W // side, C]."""
  batch, height, width, channels = maps.shape
  rows, columns = height // side, width // side
  # A mean over axes, whose gradient is a broadcast; that of `nn.avg_pool` takes more memory.
  cells = maps[:, : rows * side, : columns * side].reshape(batch, rows, side, columns, side, channels)
  return cells.mean(axis=(2, 4), dtype=jnp.float32).astype(maps.dtype)


class _Geometry(NamedTuple):
  """A convolution with "SAME" padding and the positions of its result that are sampled."""

  kernel_size: int
  stride: int
  sample: Sample

  def strided(self, maps: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution at the sampled positions only, [B, H', W', O]."""
    stride = self.stride * self.sample.stride
    padding = []
    for length, offset in zip(maps.shape[1:3], self.sample.offset, strict=True):
      positions = -(-length // self.stride)
      low = max((positions - 1) * self.stride + self.kernel_size - length, 0) // 2 - offset * self.stride
      sampled = -(-(positions - offset) // self.sample.stride)
      # Negative padding crops.
      padding.append((low, (sampled - 1) * stride + self.kernel_size - length - low))
    return convolve(maps, kernel, (stride, stride), padding)

  def between_samples(self, kernel: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Returns a convolution of maps at the sampled positions that approximates the one of the whole maps.

    A tap between sampled positions reads their linear interpolation.
    """
    taps = np.arange(self.kernel_size) - (self.kernel_size - 1) // 2
    # Weight of a sampled position in a tap: [sampled positions, taps].
    weights = np.float32(np.maximum(0, 1 - np.abs(taps[None] / self.sample.stride - taps[:, None])))
    interpolated = jnp.einsum("ph,qw,hwio->pqio", weights, weights, kernel.astype(jnp.float32)).astype(kernel.dtype)
    return lambda maps: convolve(maps.astype(kernel.dtype), interpolated, (1, 1), "SAME")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sampled_convolution(
  geometry: _Geometry,
  convolved: jax.Array,
  inputs: tuple[jax.Array, ...],
  samples: jax.Array | None,
  kernel: jax.Array,
) -> jax.Array:
  """Returns a convolution at the sampled positions, [B, H', W', O]; see `ConvUnit.__call__` for its gradients.

  Args:
    geometry: Geometry of the convolution.
    convolved: Convolution of the concatenated inputs with `kernel`, [B, H, W, O]; its gradient is zero.
    inputs: Feature maps, [B, H, W, C_i]; their gradient is zero.
    samples: Concatenated feature maps at the sampled positions, or None where no gradient is wanted.
    kernel: Kernel, [k, k, sum(C_i), O].
  """
  del inputs, samples, kernel
  # The barrier keeps XLA from taking the sample again in the backward pass, which would keep `convolved` until then.
  return jax.lax.optimization_barrier(geometry.sample.positions(convolved))


def _sampled_convolution_forward(geometry: _Geometry, convolved: jax.Array, *rest: Any) -> tuple[jax.Array, tuple]:
  return _sampled_convolution(geometry, convolved, *rest), rest


def _sampled_convolution_backward(geometry: _Geometry, residuals: tuple, cotangent: jax.Array) -> tuple:
  inputs, samples, kernel = residuals
  # The convolutions are linear in their kernel and in their input, so the values of their forward passes are not used
  # and not computed. Each input has its part of the kernel's gradient: their concatenation would have to be kept.
  parts = jnp.split(kernel, np.cumsum([maps.shape[-1] for maps in inputs])[:-1], axis=2)
  of_parts = [
    jax.vjp(functools.partial(geometry.strided, maps), part)[1](cotangent)[0]
    for maps, part in zip(inputs, parts, strict=True)
  ]
  of_kernel = jnp.concatenate(of_parts, axis=2)
  of_samples = None if samples is None else jax.vjp(geometry.between_samples(kernel), samples)[1](cotangent)[0]
  return None, None, of_samples, of_kernel


_sampled_convolution.defvjp(_sampled_convolution_forward, _sampled_convolution_backward)


def _saturate(maps: jax.Array, dtype: DTypeLike) -> jax.Array:
  """Casts to `dtype`; for float16, values beyond its range are clipped to its largest finite number."""
  if dtype != jnp.float16:
    return maps.astype(dtype)
  limit = float(jnp.finfo(dtype).max)
  return jnp.clip(maps, -limit, limit).astype(dtype)
