"""Gradient centralization (Yong et al. 2020, arXiv:2004.01461): gradients whose mean over each unit's inputs is zero.

For the weight vector w that feeds one output unit, the transform is P = I - e e^T, e the unit vector along
(1, ..., 1): the orthogonal projection of the gradient onto the hyperplane of vectors with mean zero. Where a library
keeps the output axis of a kernel decides over which axes the mean is taken; see docs/gradient_centralization.md.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# (path of a leaf in the tree, leaf) -> the axes over which its mean is taken, () to leave it alone, or None for those
# that the layout says.
AxisFunction = Callable[[tuple[Any, ...], jax.Array], tuple[int, ...] | None]

LAYOUTS = ("output_last", "output_first")
LOCATIONS = ("direction", "gradient")

_NO_KERNELS = ("bias", "scale")  # of any rank: an attention's bias is [heads, depth], a scanned layer's [layers, C]
_HAIKU_BIASES = ("b", "offset")  # [C, 1, 1] where channels come first; elsewhere `b` may well be a kernel
_CONV_NDIM = 4


def centralize_gradients(
  layout: str = "output_last",
  *,
  conv_only: bool = False,
  axes: AxisFunction | None = None,
  mask: Any = None,
) -> optax.GradientTransformation:
  """Subtracts from each kernel's gradient its mean over the inputs of every output unit: g - mean(g) (eq. 1).

  Stateless, and safe under jit, vmap, pmap and scan. It serves at both places of the official code: first in a chain,
  on the raw gradient, or behind the moments, on the direction, which the authors advise for adaptive optimisers:
  `optax.chain(optax.scale_by_adam(), centralize_gradients(), optax.scale(-1e-3))`.

  Left alone are: scalars and vectors, leaves called `bias` or `scale`, Haiku's `b` and `offset` where one axis alone is
  longer than 1, leaves that are not floating point or complex, and kernels of one input a unit, whose centralized
  gradient would be zero for ever.

  Args:
    layout: where a kernel keeps its output axis: "output_last", (H, W, I, O) and (I, O), is that of Flax, Haiku and
      Keras; "output_first", (O, I, H, W) and (O, I), that of Equinox and PyTorch.
    conv_only: leave kernels of fewer than four axes alone, as the official option does.
    axes: asked first, for every leaf that has two axes or more: returns the axes of its inputs, () to leave it alone,
      or None for what `layout` and `conv_only` say. For kernels whose output has several axes, or that are stacked
      (DenseGeneral, attention, scanned layers).
    mask: a tree of booleans, a prefix of the updates' tree or a function of it that returns one; False leaves alone.

  Returns:
    a transformation whose state is empty; each update keeps its shape and dtype, those below 32 bits are averaged in
    float32.

  Raises:
    ValueError: an unknown layout; from `init` and `update`, a leaf that belongs to a library of the other layout (a
      Flax `kernel`, an Equinox `weight`), or axes that a leaf does not have.

  Example:
    >>> gradient = {"kernel": jnp.array([[1.0, 2.0], [3.0, 6.0]]), "bias": jnp.array([1.0, 2.0])}
    >>> transform = centralize_gradients()
    >>> transform.update(gradient, transform.init(gradient))[0]["kernel"].tolist()
    [[-1.0, -2.0], [1.0, 2.0]]
  """
  if layout not in LAYOUTS:
    raise ValueError(f"layout={layout!r}: expected one of {', '.join(LAYOUTS)}")
  of_layout = _axes_of(layout, _CONV_NDIM if conv_only else 2)

  def centralized(path: tuple[Any, ...], leaf: Any) -> Any:
    if jnp.ndim(leaf) < 2 or not jnp.issubdtype(leaf.dtype, jnp.inexact):
      return leaf
    chosen = axes(path, leaf) if axes is not None else None
    over = _checked(chosen if chosen is not None else of_layout(path, leaf), path, leaf)
    return _minus_mean(leaf, over) if math.prod(leaf.shape[axis] for axis in over) > 1 else leaf

  def apply(updates: Any) -> Any:
    chosen = True if mask is None else mask(updates) if _is_function(mask) else mask

    def at(path: tuple[Any, ...], keep: Any, subtree: Any) -> Any:
      if not keep:
        return subtree
      return jax.tree_util.tree_map_with_path(lambda below, leaf: centralized((*path, *below), leaf), subtree)

    return jax.tree_util.tree_map_with_path(at, chosen, updates)

  def init(params: Any) -> optax.EmptyState:
    jax.eval_shape(apply, params)  # a layout that does not fit is an error before the first step
    return optax.EmptyState()

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    return apply(updates), state

  return optax.GradientTransformation(init, update)


def gc_sgd(
  learning_rate: optax.ScalarOrSchedule,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  *,
  location: str = "direction",
  layout: str = "output_last",
  conv_only: bool = False,
  axes: AxisFunction | None = None,
  mask: Any = None,
) -> optax.GradientTransformation:
  """SGD with gradient centralization, as the official code has it: L2 decay, momentum, projection.

  Args:
    learning_rate: a number, or a schedule of the step.
    momentum: decay of the trace.
    nesterov: look ahead.
    weight_decay: L2 penalty of all parameters, added to the gradient before the momentum.
    location: centralize the "direction", behind the momentum, or the "gradient", before everything.
    layout: see `centralize_gradients`, as for those that follow.
    conv_only: leave kernels of fewer than four axes alone.
    axes: asked first, before `layout` and `conv_only`.
    mask: which leaves are centralized.
  """
  # optax.inject_hyperparams hands numbers over as arrays, which a compiled program cannot ask for their truth.
  decayed = not isinstance(weight_decay, int | float) or weight_decay != 0
  decay = optax.add_decayed_weights(weight_decay) if decayed else optax.identity()
  direction = optax.chain(decay, optax.trace(momentum, nesterov))
  centralized = _located(location, direction, centralize_gradients(layout, conv_only=conv_only, axes=axes, mask=mask))
  return optax.chain(centralized, optax.scale_by_learning_rate(learning_rate))


def gc_adam(
  learning_rate: optax.ScalarOrSchedule,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  *,
  location: str = "direction",
  layout: str = "output_last",
  conv_only: bool = False,
  axes: AxisFunction | None = None,
  mask: Any = None,
) -> optax.GradientTransformation:
  """Adam with gradient centralization.

  Args:
    learning_rate: a number, or a schedule of the step.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    location: centralize the "direction", behind the moments, or the "gradient", before them.
    layout: see `centralize_gradients`, as for those that follow.
    conv_only: leave kernels of fewer than four axes alone.
    axes: asked first, before `layout` and `conv_only`.
    mask: which leaves are centralized.
  """
  direction = optax.scale_by_adam(b1, b2, eps)
  centralized = _located(location, direction, centralize_gradients(layout, conv_only=conv_only, axes=axes, mask=mask))
  return optax.chain(centralized, optax.scale_by_learning_rate(learning_rate))


def gc_adamw(
  learning_rate: optax.ScalarOrSchedule,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 1e-2,
  decay_mask: Any = None,
  *,
  location: str = "direction",
  layout: str = "output_last",
  conv_only: bool = False,
  axes: AxisFunction | None = None,
  mask: Any = None,
) -> optax.GradientTransformation:
  """AdamW with gradient centralization, as the official code has it: the decay is part of the direction.

  So with the location "direction" each unit's mean weight stays what it was at the start, decay or not; with
  "gradient" it does not, as the moments bend the projected gradient and the decay comes behind them.

  Args:
    learning_rate: a number, or a schedule of the step.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled from the moments.
    decay_mask: see `optax.add_decayed_weights`; None decays all parameters.
    location: centralize the "direction", behind moments and decay, or the "gradient", before them.
    layout: see `centralize_gradients`, as for those that follow.
    conv_only: leave kernels of fewer than four axes alone.
    axes: asked first, before `layout` and `conv_only`.
    mask: which leaves are centralized.
  """
  direction = optax.chain(optax.scale_by_adam(b1, b2, eps), optax.add_decayed_weights(weight_decay, decay_mask))
  centralized = _located(location, direction, centralize_gradients(layout, conv_only=conv_only, axes=axes, mask=mask))
  return optax.chain(centralized, optax.scale_by_learning_rate(learning_rate))


def _located(
  location: str, direction: optax.GradientTransformation, centralization: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Puts the centralization before or behind what makes the direction."""
  if location not in LOCATIONS:
    raise ValueError(f"location={location!r}: expected one of {', '.join(LOCATIONS)}")
  parts = (direction, centralization)
  return optax.chain(*(parts if location == "direction" else parts[::-1]))


def _axes_of(layout: str, least_ndim: int) -> Callable[[tuple[Any, ...], jax.Array], tuple[int, ...]]:
  """Returns the axis function of kernels that have one output axis, first or last."""
  foreign = _is_equinox_weight if layout == "output_last" else _is_flax_kernel

  def axes(path: tuple[Any, ...], leaf: jax.Array) -> tuple[int, ...]:
    if foreign(path):
      of, other = ("an Equinox weight", LAYOUTS[1]) if layout == LAYOUTS[0] else ("a Flax kernel", LAYOUTS[0])
      raise ValueError(
        f"layout={layout!r} does not fit {jax.tree_util.keystr(path)} {leaf.shape}, {of}: expected layout={other!r}, "
        "or an `axes` function that decides for this leaf"
      )
    if leaf.ndim < least_ndim or _is_no_kernel(path, leaf):
      return ()
    return tuple(range(leaf.ndim - 1) if layout == "output_last" else range(1, leaf.ndim))

  return axes


def _is_function(mask: Any) -> bool:
  # An Equinox module can be called too; but it is a tree, and its leaves are the booleans.
  return callable(mask) and jax.tree_util.all_leaves([mask])


def _name(path: tuple[Any, ...]) -> Any:
  """Returns the last name on a path; the `value` that Flax puts behind a variable's or a box's name is none."""
  boxed = len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value")
  key = path[-2] if boxed else path[-1] if path else None
  return getattr(key, "name", getattr(key, "key", None))


def _is_no_kernel(path: tuple[Any, ...], leaf: jax.Array) -> bool:
  name = _name(path)
  return name in _NO_KERNELS or (name in _HAIKU_BIASES and leaf.size == max(leaf.shape))


def _is_flax_kernel(path: tuple[Any, ...]) -> bool:
  return _name(path) == "kernel"


def _is_equinox_weight(path: tuple[Any, ...]) -> bool:
  # An attribute: in a dictionary or behind an nnx variable's box, "weight" says nothing of the layout.
  return bool(path) and path[-1] == jax.tree_util.GetAttrKey("weight")


def _checked(axes: tuple[int, ...], path: tuple[Any, ...], leaf: jax.Array) -> tuple[int, ...]:
  """Returns the axes counted from the front; raises ValueError for those that a leaf does not have."""
  counted = {axis % leaf.ndim for axis in axes if -leaf.ndim <= axis < leaf.ndim}
  if len(counted) != len(axes):
    raise ValueError(
      f"axes: {axes} of {jax.tree_util.keystr(path)} {leaf.shape}: expected distinct axes below {leaf.ndim}"
    )
  return tuple(sorted(counted))


def _minus_mean(leaf: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  leaf = jnp.asarray(leaf)
  wide = leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf
  return (wide - jnp.mean(wide, axis=axes, keepdims=True)).astype(leaf.dtype)
