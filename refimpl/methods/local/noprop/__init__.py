"""NoProp: blocks that learn to denoise the label, each on its own."""

from refimpl.methods.local.noprop.learner import NoProp
from refimpl.methods.local.noprop.losses import Terms, ct_loss, dt_denoising, dt_loss, end_losses, fm_loss

__all__ = ["NoProp", "Terms", "ct_loss", "dt_denoising", "dt_loss", "end_losses", "fm_loss"]
