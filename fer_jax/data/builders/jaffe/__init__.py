"""JAFFE, the Japanese Female Facial Expression dataset (Lyons et al., 1998)."""
