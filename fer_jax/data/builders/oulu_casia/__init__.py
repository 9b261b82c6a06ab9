"""Oulu-CASIA, sequences of expressions in visible and near-infrared light (Zhao et al., 2011)."""
