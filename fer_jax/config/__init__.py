"""Configs: their settings, parsing and command line, and the specification of sweeps over them."""

from fer_jax.config.parsing import complete, parse
