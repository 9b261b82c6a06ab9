"""Dataclasses as JSON files: round trips, keys of earlier versions, and damaged files."""

import dataclasses
import json
from collections.abc import Mapping

import pytest

from fer_jax.runtime import typed_json
from fer_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Point:
  x: float
  y: float = dataclasses.field(metadata={"keys": ("height", "y")})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
  version: int = 3
  points: tuple[Point, ...] = ()
  size: tuple[float, float] | None = None
  label: float | str | None = None
  named: Mapping[str, Point | None] = dataclasses.field(default_factory=dict)
  closed: bool = False


MESSAGES = ("a drawing", "draw it again")
DRAWINGS = [
  Drawing(),
  Drawing(points=(Point(1, 2.5),), size=(3, 4.0), label="a", named={"a": None, "b": Point(0.0, -1.0)}, closed=True),
  Drawing(label=2),
]


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_what_is_written_is_read(tmp_path, drawing):
  typed_json.write(tmp_path / "new" / "file.json", drawing)
  assert typed_json.read(Drawing, tmp_path / "new" / "file.json", *MESSAGES) == drawing


def test_fields_are_stored_under_the_first_key_and_without_absent_values():
  content = typed_json.as_json(Drawing(points=(Point(1, 2),), named={"a": None}))
  expected = {"version": 3, "points": [{"x": 1, "height": 2}], "named": {"a": None}, "closed": False}
  assert content == expected


@pytest.mark.parametrize("content", [{}, {"version": 1}, {"other": 1}])
def test_reads_earlier_versions_and_ignores_unknown_keys(content):
  found = typed_json.parse(Drawing, {**content, "points": [{"x": 1, "y": 2}]}, "file.json", *MESSAGES)
  assert found == Drawing(points=(Point(1, 2),))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ({"version": 4}, "version 4 of the result is newer than 3; update fer_jax"),
    ({"points": [{"x": 1}]}, r"points\[0\].height: missing; draw it again"),
    ({"points": [{"x": 1, "y": "2"}]}, r"points\[0\].y: expected float, found '2'; draw it again"),
    ({"points": 1}, "points: expected tuple, found 1"),
    ({"size": [1, 2, 3]}, r"size: expected tuple, found \[1, 2, 3\]"),
    ({"label": []}, r"label: expected str, found \[\]"),
    ({"named": {"a": 1}}, "named.a: expected an object, found 1"),
    ({"closed": 1}, "closed: expected bool, found 1"),
    ({"points": [{"x": True, "y": 2}]}, r"points\[0\].x: expected float, found True"),
    ([], "expected a drawing, found list; draw it again"),
  ],
)
def test_rejects_other_content(content, message):
  with pytest.raises(UserError, match=f"^file.json: {message}"):
    typed_json.parse(Drawing, content, "file.json", *MESSAGES)


@pytest.mark.parametrize("text", ["", "{", json.dumps({}) + "x"])
def test_rejects_a_damaged_file(tmp_path, text):
  (tmp_path / "file.json").write_text(text)
  with pytest.raises(UserError, match=r"file.json: expected a drawing, cannot read it \(.*\); draw it again"):
    typed_json.read(Drawing, tmp_path / "file.json", *MESSAGES)
