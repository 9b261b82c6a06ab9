"""Oulu-CASIA, sequences of facial expressions in visible and near-infrared light (Zhao et al., 2011)."""
