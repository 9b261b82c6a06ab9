"""Building blocks shared by the models. Every layer is called as `layer(*inputs, train=...)`."""
