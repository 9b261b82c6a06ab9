"""The mixture of KDEF and CK+ that the deep residual network was trained on."""
