import numpy as np

from tests.harness import peer


@peer("segment_sum")
def _(torch, x, segment, n_segments):
    return torch.zeros(n_segments, x.shape[1], dtype=x.dtype).index_add(0, segment.long(), x)


@peer("segment_mean")
def _(torch, x, segment, n_segments):
    index = segment.long()[:, None].expand_as(x)
    zeros = torch.zeros(n_segments, x.shape[1], dtype=x.dtype)
    return zeros.scatter_reduce(0, index, x, "mean", include_self=False)


@peer("segment_max")
def _(torch, x, segment, n_segments):
    y, argmax = [], []
    for s in range(n_segments):
        rows = torch.nonzero(segment.long() == s)[:, 0]
        if len(rows) == 0:
            y.append(torch.zeros(x.shape[1], dtype=x.dtype))
            argmax.append(torch.full((x.shape[1],), -1))
            continue
        first = rows[torch.from_numpy(np.argmax(x[rows].detach().numpy(), axis=0))]
        y.append(x.gather(0, first[None])[0])
        argmax.append(first)
    return torch.stack(y), torch.stack(argmax)


@peer("segment_softmax")
def _(torch, scores, segment, n_segments):
    y = torch.zeros_like(scores)
    for s in range(n_segments):
        rows = torch.nonzero(segment.long() == s)[:, 0]
        y = y.index_add(0, rows, torch.softmax(scores[rows], dim=0))
    return y
