"""The mixture of KDEF and CK+ on which the deep residual network of the first paper is trained."""
