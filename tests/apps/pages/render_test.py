"""Tests of rendering: escaping, sections, images, and errors."""

import base64

import cv2
import jinja2
import numpy as np
import pytest

from fer_jax.apps.pages import render


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> str:
  """Template with the sections one and two that shows the variable `text`."""
  source = """{% extends "base.html" %}{% from "macros.html" import fact, row, table %}
{% block one %}{% call table(["name", "value"]) %}{{ row(text, ["not yet measured"]) }}{% endcall %}{% endblock %}
{% block two %}{{ fact(text, 1) }}{% endblock %}"""
  environment = render.ENVIRONMENT
  loaders = [jinja2.DictLoader({"page.html": source}), environment.loader]
  monkeypatch.setattr(render, "ENVIRONMENT", environment.overlay(loader=jinja2.ChoiceLoader(loaders)))
  return "page.html"


def test_escapes_text_and_lists_the_sections(template: str) -> None:
  page = render.render(template, title="a < b", sections={"one": "First & last"}, text="<b>")
  assert "<title>a &lt; b</title>" in page
  assert '<a href="#one">First &amp; last</a>' in page
  assert '<section id="one">\n<h2>First &amp; last</h2>' in page
  assert '<th scope="row">&lt;b&gt;</th><td class="n"><span class="missing">not yet measured</span></td>' in page
  assert "<dt>" not in page  # the section two is not listed
  assert page.count("<style>") == 1 and "--paper:" in page


def test_rejects_a_missing_variable(template: str) -> None:
  with pytest.raises(jinja2.UndefinedError, match="'text' is undefined"):
    render.render(template, title="t", sections={"two": "Second"})


@pytest.mark.parametrize("channels", [1, 3])
def test_image_uri_is_lossless(channels: int) -> None:
  image = np.random.default_rng(0).integers(0, 256, (5, 4, channels), np.uint8)
  media_type, _, data = render.image_uri(image).partition(",")
  assert media_type == "data:image/png;base64"
  decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
  np.testing.assert_array_equal(decoded[..., ::-1] if channels == 3 else decoded[..., None], image)
