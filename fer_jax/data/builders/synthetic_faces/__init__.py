"""The built-in dataset `synthetic_faces`: drawn faces, made of facial action units."""
