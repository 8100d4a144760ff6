"""Spiking networks: neurons that speak in ones and zeros, trained with surrogate gradients."""
