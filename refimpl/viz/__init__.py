"""Figures: one visual language (`refimpl.viz.style`). matplotlib is imported when the first figure is drawn."""
