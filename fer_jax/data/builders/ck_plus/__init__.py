"""CK+, the extended Cohn-Kanade dataset (Lucey et al., 2010)."""
