"""KDEF, the Karolinska Directed Emotional Faces (Lundqvist, Flykt & Ohman, 1998)."""
