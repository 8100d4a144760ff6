from refimpl.methods.spiking.sltt.learner import SLTT
