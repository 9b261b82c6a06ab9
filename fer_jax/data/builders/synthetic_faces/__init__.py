"""The built-in dataset `synthetic_faces`: faces rendered from facial action units."""
