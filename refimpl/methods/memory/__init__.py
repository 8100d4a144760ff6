"""Training with less memory."""
