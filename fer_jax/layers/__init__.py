"""Building blocks that models share. Every layer is called as `layer(*inputs, train=...)`."""
