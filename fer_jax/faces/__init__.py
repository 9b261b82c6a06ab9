"""Faces in photographs and video: where they are, and the square picture that is cut around one."""
