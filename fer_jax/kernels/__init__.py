"""Convolutions and pooling whose forward and backward passes suit the backend and `vmap`; used by `fer_jax.layers`."""
