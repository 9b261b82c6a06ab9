"""One to four dense blocks: Han et al. 2023 (doi:10.12677/sea.2023.122019), fig. 12."""

from configs.sweeps import size_of
from fer_jax.config.sweep import Figure, Sweep


def get_sweep(variant: str = "") -> Sweep:
  """Returns the sweep at a size of `configs.sweeps.SIZES`."""
  size = size_of(variant)
  return Sweep(
    title="Number of dense blocks",
    citation="Han et al. 2023, doi:10.12677/sea.2023.122019, figure 12",
    claim="Three blocks reach the highest accuracy and converge fastest; four converge more slowly. No figures are "
    "printed.",
    candidates=tuple(
      # Layer by layer, as in the paper; the default, whose last block has no local loss, does not allow one block.
      size.candidate(
        "1 block" if n == 1 else f"{n} blocks",
        variant="layerwise",
        overrides=(f"--config.model.blocks={n}",),
        value=n,
      )
      for n in (1, 2, 3, 4)
    ),
    figures=(Figure("curves", "validation accuracy"), Figure("points", "validation accuracy")),
    swept="dense blocks",
  )
