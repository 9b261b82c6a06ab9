"""Tests of scatter plots as SVG."""

import re

from fer_jax.apps.pages.plots import Point, scatter_file


def test_points_of_a_series_are_joined_in_the_order_of_their_cost() -> None:
  points = [Point("late", 100.0, 0.6, "a"), Point("early", 1.0, 0.4, "a"), Point("middle", 10.0, 0.5, "a")]
  joined = scatter_file("Accuracy", points, "minutes")
  single = scatter_file("Accuracy", [point._replace(series="") for point in points], "minutes")
  # Paths that are drawn with the one and not with the other; the identifiers of their elements differ too.
  paths = [re.findall(r'd="(M [^"]*)"', svg) for svg in (joined, single)]
  (line,) = [path for path in paths[0] if path not in paths[1]]
  x = [float(position.split()[1]) for position in line.strip().splitlines()]
  assert len(x) == 3
  assert x == sorted(x)
