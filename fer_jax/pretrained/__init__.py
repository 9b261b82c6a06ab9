"""Weights from elsewhere: PyTorch's files, safetensors, NumPy's, and finished runs of ours.

`load` fills the layers of a network. Nothing that a file holds is executed, and PyTorch is not needed.
"""

from fer_jax.pretrained.transfer import Loaded, Report, load
