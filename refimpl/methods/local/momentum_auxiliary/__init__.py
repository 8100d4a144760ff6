"""Momentum auxiliary networks."""
