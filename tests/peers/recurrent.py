from tests.harness import peer


def _module(torch, kind, x, states, w_x, w_h, bias_x, bias_h):
    """torch.nn.RNN, GRU or LSTM with our weights (PyTorch stores them transposed), differentiable in them."""
    D, N = x.shape[-1], states[0].shape[-1]
    module = getattr(torch.nn, kind)(D, N, batch_first=True, dtype=torch.float64)
    weights = {"weight_ih_l0": w_x.mT, "weight_hh_l0": w_h.mT, "bias_ih_l0": bias_x, "bias_hh_l0": bias_h}
    state = tuple(s[None] for s in states)
    return torch.func.functional_call(module, weights, (x, state if kind == "LSTM" else state[0]))


@peer("rnn_sequence")
def _(torch, x, h0, w_x, w_h, bias):
    return _module(torch, "RNN", x, (h0,), w_x, w_h, bias, torch.zeros_like(bias))[0]


@peer("rnn_cell")
def _(torch, x, h, w_x, w_h, bias):
    return _module(torch, "RNN", x[:, None], (h,), w_x, w_h, bias, torch.zeros_like(bias))[0][:, 0]


@peer("gru_sequence")
def _(torch, x, h0, w_x, w_h, bias_x, bias_h):
    y, _ = _module(torch, "GRU", x, (h0,), w_x, w_h, bias_x, bias_h)
    return (y,)  # the gates stay inside


@peer("gru_cell")
def _(torch, x, h, w_x, w_h, bias_x, bias_h):
    y, _ = _module(torch, "GRU", x[:, None], (h,), w_x, w_h, bias_x, bias_h)
    return (y[:, 0],)


@peer("lstm_sequence")
def _(torch, x, h0, c0, w_x, w_h, bias):
    """Step by step, because the module tells only the last cell."""
    ys, cs, state = [], [], (h0, c0)
    for t in range(x.shape[1]):
        y, (h, c) = _module(torch, "LSTM", x[:, t : t + 1], state, w_x, w_h, bias, torch.zeros_like(bias))
        state = (h[0], c[0])
        ys.append(y[:, 0])
        cs.append(c[0])
    return torch.stack(ys, 1), torch.stack(cs, 1)


@peer("lstm_cell")
def _(torch, x, h, c, w_x, w_h, bias):
    y, (_, c_next) = _module(torch, "LSTM", x[:, None], (h, c), w_x, w_h, bias, torch.zeros_like(bias))
    return y[:, 0], c_next[0]
