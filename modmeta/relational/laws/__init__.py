"""The laws that modules learned: curves, formulas, strengths of edges."""
