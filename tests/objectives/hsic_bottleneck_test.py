"""HSIC bottleneck: gradients compared with a plain implementation, their locality, groupings, several devices."""

import dataclasses
import fnmatch
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import configs.hsic
from fer_jax.apps.benchmarks.steps import build_step, compile_program, step_inputs
from fer_jax.config.parsing import parse
from fer_jax.data import arrays, pipeline
from fer_jax.data.augment import Augmentation
from fer_jax.data.batch import Batch
from fer_jax.layers.conv_unit import Sample
from fer_jax.losses import hsic
from fer_jax.models.hsic_dense import HsicDense
from fer_jax.models.resnet import CifarResNet
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import HsicBottleneck
from fer_jax.optim import Optimizer
from fer_jax.training.step import Resident, StepContext, TrainState, make_eval_step, make_train_step
from tests.objectives.conftest import CLASSES
from tests.objectives.conftest import SETTINGS as NETWORK

FORMS = [
  HsicBottleneck(),
  HsicBottleneck(measure="trace", kernel="gaussian", balanced=False, grid=0, sigma=(1.0,)),
  HsicBottleneck(measure="nhsic", kernel="gaussian", bandwidth="median", sigma=(0.5, 1.0), epsilon=1e-2, grid=2),
  HsicBottleneck(measure="phsic", compress="self", beta=2.0, channel_groups=3, center_features=False),
  HsicBottleneck(kernel="linear", grid=2, layer_beta={"block1_*": 3.0, "*_stem": 1.0}),
  HsicBottleneck(head_layers=2, head_features=6, grid=3),
  HsicBottleneck(head_layers=1, head_features=6, sampling=2, sampled_side=4, grid=2),
]


def build(settings, network, trainable=None):
  """Returns the compiled objective, of all layers unless some are named; without compilation it is slow."""
  return jax.jit(settings.build(network, frozenset(trainable or network.layers), None))


@pytest.fixture(scope="session")
def variables_of(network, variables, batch):
  """Returns a function from a form of the objective to the variables of the network with its projection heads."""
  return lambda settings: settings.initial(network, variables, batch.image, jax.random.key(2))


@pytest.fixture(scope="session")
def one_device(network, variables_of, batch):
  """Returns a cached function that applies a form of the objective to the batch on one device, layer by layer."""
  cache = {}

  def apply(settings):
    if repr(settings) not in cache:
      cache[repr(settings)] = build(settings, network)(*variables_of(settings), batch, jax.random.key(3))
    return cache[repr(settings)]

  return apply


def name_of(settings):
  return f"{settings.measure}-{settings.kernel}-head{settings.head_layers}-sampling{settings.sampling}"


def projected(settings, measured, params):
  """Returns the rows that enter the kernel of one layer, by matrix products."""
  z = settings.rows(measured)
  for i in range(1, settings.head_layers + 1):
    dense = params["projection_head"][f"dense{i}"]
    z = z @ dense["kernel"]
    if i < settings.head_layers:
      z = jnp.maximum(z + dense["bias"][None], 0)
  return z


def plain_losses(settings, network, params, stats, batch, key, barrier=jax.lax.stop_gradient):
  """Returns the losses of all layers from one forward pass, without the code of the objective."""
  measure = {
    "trace": hsic.hsic,
    "cka": hsic.cka,
    "nhsic": functools.partial(hsic.nhsic, epsilon=settings.epsilon),
    "phsic": hsic.phsic,
  }[settings.measure]
  label = settings.label_gram(batch.target)
  rows = settings.input_rows(batch.image)
  image = settings.gram(rows @ rows.T, rows.shape[-1])
  losses = {}

  def apply(name, *inputs):
    sampling = {}
    if settings.sampling == 2 and name != network.classifier:
      # Every second position, from an offset that differs between blocks.
      block = next(i for i, names in enumerate(network.blocks) if name in names)
      sampling = {"sample": Sample(2, (block % 2, block // 2 % 2))}
    output, _ = network.call(name, params[name], stats[name], tuple(barrier(x) for x in inputs), key, **sampling)
    output, measured = output if sampling else (output, output)
    if name == network.classifier:
      losses[name] = optax.softmax_cross_entropy(output, batch.target).mean()
    else:
      z = projected(settings, measured, params[name])
      gram = settings.gram(z @ z.T, z.shape[-1])
      beta = settings.beta
      for pattern, value in settings.layer_beta.items():
        beta = value if fnmatch.fnmatch(name, pattern) else beta
      compressed = measure(gram, gram if settings.compress == "self" else image)
      losses[name] = compressed - beta * measure(gram, label)
    return output

  network.walk(apply, batch.image)
  return losses


@pytest.mark.parametrize("settings", FORMS, ids=name_of)
def test_gradients_equal_the_plain_implementation(network, variables_of, batch, one_device, settings):
  key = jax.random.key(3)
  output, variables = one_device(settings), variables_of(settings)

  def total(params):
    return sum(plain_losses(settings, network, params, variables[1], batch, key).values())

  chex.assert_trees_all_close(output.gradients, jax.jit(jax.grad(total))(variables[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  ("settings", "group"),
  [
    *((form, "network") for form in FORMS),
    *((FORMS[i], "block") for i in (0, 2, -1)),
    (FORMS[0], "triple"),
  ],
)
def test_all_groupings_give_the_same_gradients(network, variables_of, batch, one_device, settings, group):
  by_layer = one_device(settings)
  grouped = build(dataclasses.replace(settings, group=group), network)
  found = grouped(*variables_of(settings), batch, jax.random.key(3))
  # Some gradients are exactly 0 (normalisation cancels the weight of a single input), and differ only by rounding.
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(by_layer.gradients))
  chex.assert_trees_all_close(found.gradients, by_layer.gradients, rtol=1e-4, atol=1e-6 * scale)
  chex.assert_trees_all_close(found.metrics, by_layer.metrics, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("head_layers", "sampling"), [(0, 1), (1, 1), (1, 2)])
def test_losses_reach_earlier_layers_only_within_their_block(network, variables_of, batch, head_layers, sampling):
  """Compares with a gradient of the whole network that is stopped only between blocks."""
  settings = HsicBottleneck(
    unit="block", group="block", grid=2, head_layers=head_layers, sampling=sampling, sampled_side=4
  )
  key = jax.random.key(3)
  variables = variables_of(settings)
  by_block = build(settings, network)(*variables, batch, key)
  block_of = {name: i for i, block in enumerate(network.blocks) for name in block}
  label, image = settings.label_gram(batch.target), settings.input_rows(batch.image)
  image = settings.gram(image @ image.T, image.shape[-1])

  def total(params):
    block_of_output, measured_of, terms = {}, {}, []

    def apply(name, *inputs):
      inside = [block_of_output.get(id(x)) == block_of.get(name, -1) for x in inputs]
      sampling = {}
      if settings.sampling == 2 and name != network.classifier:
        block = block_of[name]
        samples = tuple(measured_of[id(x)] if reached else None for x, reached in zip(inputs, inside, strict=True))
        sampling = {"sample": Sample(2, (block % 2, block // 2 % 2)), "sampled_inputs": samples}
      inputs = tuple(x if reached else jax.lax.stop_gradient(x) for x, reached in zip(inputs, inside, strict=True))
      output, _ = network.call(name, params[name], variables[1][name], inputs, key, **sampling)
      output, measured = output if sampling else (output, output)
      block_of_output[id(output)], measured_of[id(output)] = block_of.get(name), measured
      outputs.append(output)
      if name != network.classifier:
        z = projected(settings, measured, params[name])
        gram = settings.gram(z @ z.T, z.shape[-1])
        terms.append(hsic.cka(gram, image) - settings.beta * hsic.cka(gram, label))
      return output

    outputs = []  # ids stay unique while all outputs are alive
    network.walk(apply, batch.image)
    return sum(terms)

  expected = jax.jit(jax.grad(total))(variables[0])
  hidden = {name: by_block.gradients[name] for name in network.hidden}
  chex.assert_trees_all_close(hidden, {name: expected[name] for name in hidden}, rtol=1e-3, atol=1e-4)
  by_layer = build(dataclasses.replace(settings, unit="layer"), network)(*variables, batch, key).gradients
  stem = "block1_stem"
  assert not np.allclose(by_layer[stem]["kernel"], hidden[stem]["kernel"], rtol=1e-2)


def test_rejects_a_unit_larger_than_its_group():
  with pytest.raises(
    ValueError, match="unit='block': expected objective.group to be one of network, block, not 'layer'"
  ):
    HsicBottleneck(unit="block")


@pytest.mark.parametrize("settings", [FORMS[0], *FORMS[-2:]], ids=name_of)
def test_loss_of_a_layer_has_no_gradient_in_other_layers(network, variables_of, batch, one_device, settings):
  key, variables = jax.random.key(3), variables_of(settings)

  def losses(params):
    return plain_losses(settings, network, params, variables[1], batch, key)

  gradients = one_device(settings).gradients
  jacobian = jax.jit(jax.jacrev(losses))(variables[0])
  for layer in network.layers:
    for other in network.layers:
      size = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(jacobian[layer][other]))
      assert (size > 0) == (layer == other), f"loss of {layer}, parameters of {other}"
    # The objective returns exactly the gradient of the layer's own loss.
    chex.assert_trees_all_close(gradients[layer], jacobian[layer][layer], rtol=1e-3, atol=1e-4)


def test_gradients_do_not_depend_on_later_layers(network, variables, batch):
  """Changes the parameters of later layers and expects bit-identical gradients of the earlier ones."""
  params, stats = variables
  settings = HsicBottleneck(group="network")
  objective = build(settings, network)
  before = objective(params, stats, batch, jax.random.key(3)).gradients
  first = network.hidden[:3]
  changed = {name: p if name in first else jax.tree.map(lambda x: x * 1.5 + 0.1, p) for name, p in params.items()}
  after = objective(changed, stats, batch, jax.random.key(3)).gradients
  for name in first:
    chex.assert_trees_all_equal(before[name], after[name])
  assert not np.allclose(before["classifier"]["Dense_2"]["kernel"], after["classifier"]["Dense_2"]["kernel"])


@pytest.mark.parametrize(
  ("settings", "devices"),
  [
    *((FORMS[0], 2), (FORMS[0], 4), (FORMS[-1], 2)),
    *(pytest.param(form, 4, marks=pytest.mark.slow) for form in FORMS[1:]),
  ],
)
def test_several_devices_give_the_output_of_one(network, variables_of, one_device, on_devices, settings, devices):
  one = one_device(settings)
  many = on_devices(settings, devices, frozenset(network.layers), variables_of(settings))
  chex.assert_trees_all_close(many.metrics, one.metrics, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(many.stats, one.stats, rtol=1e-5, atol=1e-6)
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(one.gradients))
  chex.assert_trees_all_close(many.gradients, one.gradients, rtol=1e-4, atol=1e-5 * scale)


def test_frozen_layers_have_no_gradient_and_keep_their_statistics(network, variables, batch):
  trainable = frozenset(network.blocks[0])
  output = build(HsicBottleneck(), network, trainable)(*variables, batch, jax.random.key(3))
  assert set(output.gradients) == trainable
  for name in network.layers:
    unchanged = jax.tree.map(lambda a, b: bool((a == b).all()), output.stats[name], variables[1][name])
    assert all(jax.tree.leaves(unchanged)) == (name not in trainable), name


def make_degenerate(case, variables, batch):
  """Returns variables and a batch of a degenerate case."""
  params, stats = variables
  if case == "one class":
    batch = batch._replace(target=jnp.tile(batch.target[:1], (len(batch.target), 1)))
  elif case == "two rows":
    batch = jax.tree.map(lambda x: x[:2], batch)
  elif case == "constant images":
    batch = batch._replace(image=jnp.zeros_like(batch.image))
  else:
    dead = {"kernel": params["block1_conv1"]["kernel"] * 0, "norm": {"scale": jnp.zeros(4), "bias": -jnp.ones(4)}}
    params = {**params, "block1_conv1": {**params["block1_conv1"], **dead}}
  return (params, stats), batch


@pytest.mark.parametrize(
  "settings", [FORMS[0], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])], ids=name_of
)
def test_is_finite_for_degenerate_batches(network, variables_of, batch, settings):
  objective = build(settings, network)
  for case in ("one class", "two rows", "constant images", "dead layer"):
    case_variables, case_batch = make_degenerate(case, variables_of(settings), batch)
    output = objective(*case_variables, case_batch, jax.random.key(3))
    finite = [bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(output)]
    assert all(finite), case


@pytest.mark.parametrize("settings", FORMS[:2], ids=name_of)
def test_is_finite_for_float16_activations_that_overflow(variables, batch, settings):
  """Uses a first convolution beyond 65,504, which normalisation receives as the largest float16 instead of infinity."""
  network = NETWORK.build(CLASSES, jnp.float16, None)
  params, stats = variables
  large = {**params, "block1_stem": {**params["block1_stem"], "kernel": params["block1_stem"]["kernel"] * 1e5}}
  output = build(settings, network)(large, stats, batch, jax.random.key(3))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(output))
  assert jnp.abs(output.gradients["block1_conv1"]["kernel"]).max() > 0


@pytest.mark.parametrize("field", ["measure", "kernel", "bandwidth", "compress", "group", "unit"])
def test_rejects_unknown_choices_and_names_the_known_ones(field):
  with pytest.raises(ValueError, match=f"{field}='nope': expected one of"):
    HsicBottleneck(**{field: "nope"})


@pytest.mark.parametrize(
  ("field", "value"),
  [
    *(("sigma", ()), ("sigma", (1.0, 0.0)), ("epsilon", 0.0), ("sampling", 0), ("sampled_side", 0)),
    *(("classifier_blocks", -1), ("head_layers", -1), ("head_features", 0)),
  ],
)
def test_rejects_invalid_numbers(field, value):
  with pytest.raises(ValueError, match=f"objective.{field}="):
    HsicBottleneck(**{field: value})


def test_rejects_heads_on_a_grid_that_samples_do_not_fill():
  with pytest.raises(ValueError, match="objective.grid=3: expected 1 to 2, because projection heads read a grid"):
    HsicBottleneck(head_layers=1, sampling=2, sampled_side=4, grid=3)


def test_the_cross_entropy_trains_the_last_blocks_and_no_other(network, variables, batch):
  params, stats = variables
  key, last = jax.random.key(3), {name for name in network.layers if name.split("_")[0] in ("pyramid", "classifier")}
  output = build(HsicBottleneck(classifier_blocks=1), network)(params, stats, batch, key)
  plain = build(HsicBottleneck(), network)(params, stats, batch, key)

  def cross_entropy(of_last):
    outputs, _ = network.apply({**params, **of_last}, stats, batch.image, key=key)
    return optax.softmax_cross_entropy(outputs.logits, batch.target).mean()

  expected = jax.jit(jax.grad(cross_entropy))({name: params[name] for name in last})
  chex.assert_trees_all_close({name: output.gradients[name] for name in last}, expected, rtol=1e-3, atol=1e-5)
  others = set(network.layers) - last
  chex.assert_trees_all_close(
    {name: output.gradients[name] for name in others}, {name: plain.gradients[name] for name in others}, rtol=1e-4
  )
  chex.assert_trees_all_close(output.stats, plain.stats, rtol=1e-5)


@pytest.mark.parametrize(
  ("settings", "trainable", "message"),
  [
    ({"classifier_blocks": 2}, None, "classifier_blocks=2: expected less than 2, the number of blocks"),
    ({"classifier_blocks": 1}, ["pyramid_level1"], "classifier_blocks=1: expected 'classifier' among the trainable"),
  ],
)
def test_rejects_a_last_unit_that_does_not_fit(network, settings, trainable, message):
  with pytest.raises(ValueError, match=message):
    build(HsicBottleneck(**settings), network, trainable)


def test_rejects_samples_of_layers_that_have_none():
  network = CifarResNet(depth=8, width=4).build(CLASSES, jnp.float32, None)
  with pytest.raises(ValueError, match="sampling=2: expected hidden layers of type ConvUnit, as in hsic_dense, but"):
    build(HsicBottleneck(sampling=2), network)


def test_rejects_a_layer_beta_that_matches_no_layer(network):
  with pytest.raises(ValueError, match=r"objective.layer_beta: 'blok\*' matches no hidden layer"):
    build(HsicBottleneck(layer_beta={"blok*": 1.0}), network)


SIZE, STEPS, BATCH = 32, 300, 64
# The form of pHSIC compresses Z itself instead of its dependence on X; the trace supports it too.
PHSIC_FORM = {"compress": "self", "beta": 2.0, "balanced": False, "grid": 4}
VARIANTS = {
  "cka": HsicBottleneck(grid=4),
  "cka, linear kernel": HsicBottleneck(kernel="linear", grid=4),
  "nhsic": HsicBottleneck(measure="nhsic", epsilon=1e-2, grid=4),
  "trace": HsicBottleneck(measure="trace", **PHSIC_FORM),
  "phsic": HsicBottleneck(measure="phsic", **PHSIC_FORM),
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
  return arrays.load("synthetic_faces", str(tmp_path_factory.mktemp("data")), image_size=SIZE)


def resident(faces, split):
  rows = faces.rows(split)
  return Resident(jnp.asarray(np.asarray(faces.image)[rows]), jnp.asarray(pipeline.targets(faces)[rows]))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_learns_the_built_in_faces(faces, variant):
  network = HsicDense(blocks=1, convs=1, growth=32, stem=32, pyramid=32, head_grid=4).build(
    faces.num_classes, jnp.float32, None
  )
  train, test = resident(faces, "train"), resident(faces, "test")
  params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1)))
  optimizer = Optimizer(learning_rate=0.02, schedule="cosine", warmup=0.05, clip_norm=100.0).build()
  objective = VARIANTS[variant].build(network, frozenset(network.layers), None)
  step = jax.jit(make_train_step(objective, optimizer, Augmentation()))
  state = TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))
  generator = np.random.default_rng(0)
  for i in range(STEPS):
    index = generator.integers(0, len(train.image), BATCH).astype(np.int32)
    state, _ = step(state, train, Batch(index, np.ones(BATCH, bool)), StepContext(np.float32(i / STEPS), np.int32(0)))
  all_rows = Batch(np.arange(len(test.image), dtype=np.int32), np.ones(len(test.image), bool))
  sums, _ = jax.jit(make_eval_step(network))((state.params, state.stats), test, all_rows)
  assert np.trace(sums.confusion) / len(test.image) > 0.8


@pytest.mark.slow
def test_step_of_the_small_network_takes_two_fifths_of_back_propagations_memory():
  settings = parse(configs.hsic.get_config("small"))

  def temporary_bytes(objective):
    inputs = step_inputs(settings.model, settings.batch_size, settings.precision, objective=objective)
    step = build_step(objective.build(inputs.network, frozenset(inputs.network.layers), None))
    return compile_program(step, inputs.arguments).temporary_bytes

  assert temporary_bytes(settings.phases["bottleneck"].objective) < 0.4 * temporary_bytes(Backprop())
