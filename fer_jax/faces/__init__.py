"""Faces in photographs and videos: detection, tracking, and square crops around a face."""
