"""A canvas on which the curves of a face are painted from the viewpoint of a shot."""

import math

import cv2
import numpy as np

from fer_jax.data.builders.synthetic_faces.geometry import Curve
from fer_jax.data.builders.synthetic_faces.identity import Shot

# Face unit in half-widths of the image: the crop of a face detector, from forehead to chin.
HEAD_SCALE = 0.9
# y coordinate, in face units, of the point in the middle of the image.
HEAD_CENTRE = 0.05
# Curvature of the face: decrease of its depth with the squares of x and y.
_BULGE = np.array([0.6, 0.35])
# cv2 takes polygons in fixed point, here with 4 fractional bits per coordinate.
_SUBPIXEL_BITS = 4


class Canvas:
  """A canvas on which curves in face units are painted from the viewpoint of a shot.

  Args:
    shot: Pose and camera of the image.
    size: Side of the canvas in pixels.
  """

  def __init__(self, shot: Shot, size: int):
    self.canvas = np.empty((size, size), np.uint8)
    self._scale = size / 2 * HEAD_SCALE * shot.zoom
    offset = size / 2 * HEAD_SCALE * np.array(shot.shift) + size / 2
    sin_yaw, cos_yaw = math.sin(shot.yaw), math.cos(shot.yaw)
    sin_pitch, cos_pitch = math.sin(shot.pitch), math.cos(shot.pitch)
    sin_roll, cos_roll = math.sin(shot.roll), math.cos(shot.roll)
    # [3, 2]: displacement on the canvas of a unit step right, down and towards the camera, before the roll.
    rotation = np.array([[cos_yaw, sin_pitch * sin_yaw], [0, cos_pitch], [sin_yaw, sin_pitch * cos_yaw]])
    roll = np.array([[cos_roll, sin_roll], [-sin_roll, cos_roll]])
    # [3, 2] @ [2, 2] -> [3, 2]: an orthographic projection.
    self._camera = rotation @ roll * self._scale
    self._offset = offset - HEAD_CENTRE * self._camera[1]

  def points(self, curve: Curve, flat: bool = False, depth: float = 0.0) -> np.ndarray:
    """Returns the points of a curve on the canvas in fixed point, int32 [P, 2].

    Args:
      curve: Points in face units, float array of shape [P, 2].
      flat: Whether the curve is in the plane of the head's outline instead of on the curved face.
      depth: Distance of the curve in front of that surface, in face units.
    """
    across_down, depth_axis = self._camera[:2], self._camera[2]
    if flat:
      on_canvas = curve @ across_down + (depth * depth_axis + self._offset)
    else:
      # [P]: depth of each point on the paraboloid of the face.
      depths = depth + 0.55 - (curve * curve) @ _BULGE
      on_canvas = curve @ across_down + depths[:, None] * depth_axis + self._offset
    return np.rint(on_canvas * (1 << _SUBPIXEL_BITS)).astype(np.int32)

  def fill(self, curve: Curve, shade: float, *, flat: bool = False, depth: float = 0.0) -> None:
    """Fills a closed curve with a grey level; `flat` and `depth` as in `points`."""
    cv2.fillPoly(self.canvas, [self.points(curve, flat, depth)], _grey(shade), cv2.LINE_8, _SUBPIXEL_BITS)

  def line(
    self,
    curve: Curve,
    shade: float,
    width: float,
    *,
    flat: bool = False,
    depth: float = 0.0,
    closed: bool = False,
  ) -> None:
    """Draws a line along a curve.

    Args:
      curve: Points in face units, float array of shape [P, 2].
      shade: Grey level.
      width: Width of the line in face units; at least one pixel is drawn.
      flat: Whether the curve is in the plane of the head's outline instead of on the curved face.
      depth: Distance of the curve in front of that surface, in face units.
      closed: Whether to connect the last point with the first.
    """
    pixels = max(1, round(width * self._scale))
    points = [self.points(curve, flat, depth)]
    cv2.polylines(self.canvas, points, closed, _grey(shade), pixels, cv2.LINE_8, _SUBPIXEL_BITS)


def _grey(shade: float) -> tuple[float]:
  """Returns a grey level, clipped to [0, 255], as the colour tuple that cv2 expects."""
  return (float(min(255.0, max(0.0, shade))),)
