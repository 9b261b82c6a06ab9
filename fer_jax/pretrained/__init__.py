"""Pretrained weights from PyTorch, safetensors and NumPy files, or from finished fer_jax runs.

`load` copies them into the layers of a network. No code from a file is executed, and PyTorch is not required.
"""

from fer_jax.pretrained.transfer import PretrainedLayers, Report, load
