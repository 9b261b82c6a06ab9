"""Gradient centralization (Yong et al. 2020, arXiv:2004.01461): subtracts the mean over each unit's inputs.

For the weight vector w of one output unit, the transform is P = I - e e^T, with e the unit vector along (1, ..., 1). P
is the orthogonal projection of the gradient onto the hyperplane of vectors with mean zero. The axes of the mean depend
on the position of a kernel's output axis, which differs between libraries; see docs/gradient_centralization.md.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

# (path of a leaf in the tree, leaf) -> axes of the mean, () to skip the leaf, or None to use the axes of the layout.
AxisFunction = Callable[[tuple[Any, ...], jax.Array], tuple[int, ...] | None]

LAYOUTS = ("output_last", "output_first")
LOCATIONS = ("direction", "gradient")

# Skipped at any rank: the bias of an attention layer is [heads, depth], that of a scanned layer [layers, C].
_NO_KERNELS = ("bias", "scale")
# Skipped only in bias shape, such as [C, 1, 1] for channels-first layers: other libraries may name a kernel `b`.
_HAIKU_BIASES = ("b", "offset")
_CONV_NDIM = 4


def centralize_gradients(
  layout: str = "output_last",
  *,
  conv_only: bool = False,
  axes: AxisFunction | None = None,
  mask: Any = None,
) -> optax.GradientTransformation:
  """Subtracts from each kernel's gradient its mean over the inputs of every output unit: g - mean(g) (eq. 1).

  The transform is stateless and works under jit, vmap, pmap and scan. It supports both locations of the official code:
  first in a chain, on the raw gradient, or after the moments, on the direction, as the authors recommend for adaptive
  optimisers: `optax.chain(optax.scale_by_adam(), centralize_gradients(), optax.scale(-1e-3))`.

  Unchanged are: scalars and vectors; leaves named `bias` or `scale`; Haiku's `b` and `offset` if only one axis is
  longer than 1; leaves that are neither floating point nor complex; and kernels with one input per unit, whose
  centralized gradient would always be zero.

  Args:
    layout: Position of the output axis of kernels. "output_last", (H, W, I, O) and (I, O), is used by Flax, Haiku and
      Keras; "output_first", (O, I, H, W) and (O, I), by Equinox and PyTorch.
    conv_only: Whether to skip kernels with fewer than four axes, as the official option does.
    axes: Function of path and leaf, called first for every leaf with two or more axes. It returns the input axes of the
      leaf, () to skip the leaf, or None to apply `layout` and `conv_only`. Needed for kernels with several output axes
      and for stacked kernels (DenseGeneral, attention, scanned layers).
    mask: Tree of booleans that is a prefix of the updates' tree, or function of the updates that returns one; leaves
      with False are skipped.

  Returns:
    Transformation with an empty state. Each update keeps its shape and dtype; means of dtypes below 32 bits are
    computed in float32.

  Raises:
    ValueError: Unknown layout; or a single boolean or array as `axes` or `mask`, to which `optax.inject_hyperparams`
      reduces functions that are not among its `static_args`. Also raised by `init` and `update` for a leaf of a library
      with the other layout (a Flax `kernel`, an Equinox `weight`) and for axes that a leaf does not have.

  Examples:
    >>> gradient = {"kernel": jnp.array([[1.0, 2.0], [3.0, 6.0]]), "bias": jnp.array([1.0, 2.0])}
    >>> transform = centralize_gradients()
    >>> transform.update(gradient, transform.init(gradient))[0]["kernel"].tolist()
    [[-1.0, -2.0], [1.0, 2.0]]
  """
  if layout not in LAYOUTS:
    raise ValueError(f"layout={layout!r}: expected one of {', '.join(LAYOUTS)}")
  _check_functions(axes, mask)
  of_layout = _axes_of(layout, _CONV_NDIM if conv_only else 2)

  def centralized(path: tuple[Any, ...], leaf: Any) -> Any:
    if jnp.ndim(leaf) < 2 or not jnp.issubdtype(leaf.dtype, jnp.inexact):
      return leaf
    chosen = axes(path, leaf) if axes is not None else None
    over = _checked(chosen if chosen is not None else of_layout(path, leaf), path, leaf)
    # A mean over one input would make the gradient zero.
    return _minus_mean(leaf, over) if math.prod(leaf.shape[axis] for axis in over) > 1 else leaf

  def apply(updates: Any) -> Any:
    chosen = True if mask is None else mask(updates) if _is_function(mask) else mask

    # The mask may be a prefix of the tree: each of its booleans applies to a whole subtree.
    def at(path: tuple[Any, ...], keep: Any, subtree: Any) -> Any:
      if not keep:
        return subtree
      return jax.tree_util.tree_map_with_path(lambda below, leaf: centralized((*path, *below), leaf), subtree)

    return jax.tree_util.tree_map_with_path(at, chosen, updates)

  def init(params: Any) -> optax.EmptyState:
    # Raises the errors of a wrong layout here, before the first step, without computing anything.
    jax.eval_shape(apply, params)
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
  """Returns SGD with gradient centralization, in the order of the official code: L2 decay, momentum, projection.

  Args:
    learning_rate: Learning rate: a number, or a schedule of the step.
    momentum: Decay rate of the momentum.
    nesterov: Whether to use Nesterov momentum.
    weight_decay: L2 penalty of all parameters, added to the gradient before the momentum.
    location: Location of the centralization: "direction", after the momentum, or "gradient", before decay and momentum.
    layout: Position of the output axis of kernels; see `centralize_gradients`.
    conv_only: Whether to centralize only kernels with four or more axes.
    axes: Function that chooses the axes of a leaf before `layout` and `conv_only` apply; see `centralize_gradients`.
    mask: Tree of booleans that selects the leaves to centralize; see `centralize_gradients`.

  Returns:
    Optax transformation, learning rate included.

  Raises:
    ValueError: Unknown location or layout.
  """
  # optax.inject_hyperparams passes hyper-parameters as traced arrays, which have no truth value: keep the decay then.
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
  """Returns Adam with gradient centralization.

  Args:
    learning_rate: Learning rate: a number, or a schedule of the step.
    b1: Decay rate of the first moment.
    b2: Decay rate of the second moment.
    eps: Constant added to the root of the second moment.
    location: Location of the centralization: "direction", after the moments, or "gradient", before them.
    layout: Position of the output axis of kernels; see `centralize_gradients`.
    conv_only: Whether to centralize only kernels with four or more axes.
    axes: Function that chooses the axes of a leaf before `layout` and `conv_only` apply; see `centralize_gradients`.
    mask: Tree of booleans that selects the leaves to centralize; see `centralize_gradients`.

  Returns:
    Optax transformation, learning rate included.

  Raises:
    ValueError: Unknown location or layout.
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
  """Returns AdamW with gradient centralization; the weight decay is part of the direction, as in the official code.

  With location "direction", the mean weight of each unit therefore keeps its initial value, with or without decay. With
  "gradient" it does not: the moments change the projected gradient, and the decay is added after the projection.

  Args:
    learning_rate: Learning rate: a number, or a schedule of the step.
    b1: Decay rate of the first moment.
    b2: Decay rate of the second moment.
    eps: Constant added to the root of the second moment.
    weight_decay: Weight decay, decoupled from the moments.
    decay_mask: Mask of the weight decay; see `optax.add_decayed_weights`. None decays all parameters.
    location: Location of the centralization: "direction", after moments and decay, or "gradient", before them.
    layout: Position of the output axis of kernels; see `centralize_gradients`.
    conv_only: Whether to centralize only kernels with four or more axes.
    axes: Function that chooses the axes of a leaf before `layout` and `conv_only` apply; see `centralize_gradients`.
    mask: Tree of booleans that selects the leaves to centralize; see `centralize_gradients`.

  Returns:
    Optax transformation, learning rate included.

  Raises:
    ValueError: Unknown location or layout.
  """
  direction = optax.chain(optax.scale_by_adam(b1, b2, eps), optax.add_decayed_weights(weight_decay, decay_mask))
  centralized = _located(location, direction, centralize_gradients(layout, conv_only=conv_only, axes=axes, mask=mask))
  return optax.chain(centralized, optax.scale_by_learning_rate(learning_rate))


def _located(
  location: str, direction: optax.GradientTransformation, centralization: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Chains the centralization after ("direction") or before ("gradient") the transform of the direction."""
  if location not in LOCATIONS:
    raise ValueError(f"location={location!r}: expected one of {', '.join(LOCATIONS)}")
  parts = (direction, centralization)
  return optax.chain(*(parts if location == "direction" else parts[::-1]))


def _axes_of(layout: str, least_ndim: int) -> Callable[[tuple[Any, ...], jax.Array], tuple[int, ...]]:
  """Returns the axis function of kernels with one output axis, first or last.

  Args:
    layout: Position of the output axis, one of LAYOUTS.
    least_ndim: Minimum number of axes; leaves with fewer are skipped.

  Returns:
    Function of path and leaf that returns the axes of the mean, () for leaves to skip. It raises ValueError for leaves
    whose name belongs to a library of the other layout.
  """
  foreign = _is_equinox_weight if layout == "output_last" else _is_flax_kernel

  def axes(path: tuple[Any, ...], leaf: jax.Array) -> tuple[int, ...]:
    if foreign(path):
      of, other = ("an Equinox weight", LAYOUTS[1]) if layout == LAYOUTS[0] else ("a Flax kernel", LAYOUTS[0])
      raise ValueError(
        f"layout={layout!r} does not fit {jax.tree_util.keystr(path)} {leaf.shape}, {of}: expected layout={other!r}, "
        "or an `axes` function that decides for this leaf"
      )
    # Kernels only; see `_NO_KERNELS` and `_HAIKU_BIASES`.
    if leaf.ndim < least_ndim or _is_no_kernel(path, leaf):
      return ()
    return tuple(range(leaf.ndim - 1) if layout == "output_last" else range(1, leaf.ndim))

  return axes


def _check_functions(axes: Any, mask: Any) -> None:
  """Raises ValueError if `axes` or `mask` was a function that optax.inject_hyperparams has called as a schedule."""
  # A function of a tree, called with the step count, returns one boolean or array.
  wrong = {"mask": mask} if isinstance(mask, bool | np.bool_ | jax.Array) else {}
  wrong |= {"axes": axes} if axes is not None and not callable(axes) else {}
  for name, value in wrong.items():
    expected = {"axes": "a function", "mask": "a function or a tree of booleans"}[name]
    raise ValueError(
      f"{name}={value!r}: expected {expected}; optax.inject_hyperparams calls functions as schedules, unless "
      "static_args=('axes', 'mask') is passed to it"
    )


def _is_function(mask: Any) -> bool:
  # A mask that is an Equinox module may also be callable, but it is a tree whose leaves are the booleans.
  return callable(mask) and jax.tree_util.all_leaves([mask])


def _name(path: tuple[Any, ...]) -> Any:
  """Returns the last name on a path, without the attribute `value` of Flax's variables and boxes."""
  # (..., "kernel", .value) -> "kernel"
  boxed = len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value")
  key = path[-2] if boxed else path[-1] if path else None
  # GetAttrKey has `name`, DictKey has `key`, SequenceKey has neither.
  return getattr(key, "name", getattr(key, "key", None))


def _is_no_kernel(path: tuple[Any, ...], leaf: jax.Array) -> bool:
  name = _name(path)
  return name in _NO_KERNELS or (name in _HAIKU_BIASES and leaf.size == max(leaf.shape))


def _is_flax_kernel(path: tuple[Any, ...]) -> bool:
  return _name(path) == "kernel"


def _is_equinox_weight(path: tuple[Any, ...]) -> bool:
  # Only the attribute `weight` implies Equinox's layout; a dictionary key or an nnx variable of that name does not.
  return bool(path) and path[-1] == jax.tree_util.GetAttrKey("weight")


def _checked(axes: tuple[int, ...], path: tuple[Any, ...], leaf: jax.Array) -> tuple[int, ...]:
  """Returns the axes as non-negative numbers; raises ValueError for axes that the leaf does not have."""
  counted = {axis % leaf.ndim for axis in axes if -leaf.ndim <= axis < leaf.ndim}
  if len(counted) != len(axes):
    raise ValueError(
      f"axes: {axes} of {jax.tree_util.keystr(path)} {leaf.shape}: expected distinct axes below {leaf.ndim}"
    )
  return tuple(sorted(counted))


def _minus_mean(leaf: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  leaf = jnp.asarray(leaf)
  # A mean of 16-bit numbers is computed in float32 and cast back after the subtraction.
  wide = leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf
  return (wide - jnp.mean(wide, axis=axes, keepdims=True)).astype(leaf.dtype)
