"""Renders the HTML pages from the jinja2 templates in the folder `templates`.

A page extends base.html, which contains style.css and lists the page's sections, and uses the elements of macros.html.
"""

import base64

import cv2
import jinja2
import numpy as np

from fer_jax.apps import formatting


def render(template: str, **values: object) -> str:
  """Returns a complete page, without external resources.

  Args:
    template: Name of a template that extends base.html.
    **values: Variables of the template. Every page needs `title`, the plain-text title of the document, and `sections`,
      a dict from the anchor of each section, which is also the name of its block, to its heading. Texts are escaped.

  Raises:
    jinja2.UndefinedError: The template uses a variable that is not given.
  """
  return ENVIRONMENT.get_template(template).render(values)


def image_uri(image: np.ndarray) -> str:
  """Returns an image as the data URI of a PNG.

  Args:
    image: Image with one (grey) or three (RGB) channels, uint8 [H, W, C].
  """
  # OpenCV encodes images in BGR order.
  pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[-1] == 3 else image
  _, png = cv2.imencode(".png", np.ascontiguousarray(pixels))
  return f"data:image/png;base64,{base64.b64encode(png.tobytes()).decode('ascii')}"


ENVIRONMENT = jinja2.Environment(
  loader=jinja2.PackageLoader("fer_jax.apps.pages"),
  autoescape=True,
  undefined=jinja2.StrictUndefined,
  trim_blocks=True,
  lstrip_blocks=True,
  keep_trailing_newline=True,
)
ENVIRONMENT.filters["image_uri"] = image_uri
for _name in (
  *("accuracy_estimate", "count", "device_of", "duration", "memory", "metric_name", "percent", "short_commit"),
  "spread",
):
  ENVIRONMENT.filters[_name] = getattr(formatting, _name)
for _name in ("percent_range", "quantity", "runs_text"):
  ENVIRONMENT.globals[_name] = getattr(formatting, _name)
