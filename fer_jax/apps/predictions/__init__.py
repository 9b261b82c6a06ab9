"""Components of `fer_jax.apps.predict`: inputs, face detection and classification, and outputs."""
