"""Local learning: layers or blocks that learn from targets of their own."""
