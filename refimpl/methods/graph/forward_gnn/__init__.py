from refimpl.methods.graph.forward_gnn.learner import ForwardGNN as ForwardGNN
