"""Parts of the page that `fer_jax.apps.audit` writes."""
