"""Methods for graph neural networks."""
