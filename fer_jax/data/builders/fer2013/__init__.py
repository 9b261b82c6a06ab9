"""FER2013 (Goodfellow et al., 2013) with its FER+ votes (Barsoum et al., 2016)."""
