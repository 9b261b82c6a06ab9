"""Well-known networks to compare with, one file a paper. The defaults suit faces of 48 pixels."""
