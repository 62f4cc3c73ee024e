"""The slow, obvious answer in float64: in PyTorch, with its gradients, or where that is not
installed masked_rnn.reference's."""

import importlib.util

import numpy as np

from benchmarks.on_gpu.calls import STATES, WEIGHTS


def expected(cell, arrays, go_backwards=False, zero_output_for_mask=False):
    """{name: float64 array} as `calls.Call.numbers` has them, for arrays as there."""
    arrays = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    arrays = {n: a if n == "mask" else a.astype(np.float64) for n, a in arrays.items()}
    compute = _in_torch if importlib.util.find_spec("torch") else _in_numpy
    return compute(cell, arrays, go_backwards, zero_output_for_mask)


def _in_torch(cell, arrays, go_backwards, zero_output_for_mask):
    """All rows at once, step by step; a masked step keeps what was there."""
    import torch

    where = "cuda" if torch.cuda.is_available() else "cpu"
    given = {name: torch.from_numpy(array).to(where) for name, array in arrays.items()}
    batch, time, _ = arrays["inputs"].shape
    mask = given.get("mask", torch.ones(batch, time, dtype=torch.bool, device=where))
    # What stands at a masked step, NaN perhaps, has no part in anything.
    given["inputs"] = torch.where(mask[:, :, None], given["inputs"], 0.0)
    states = STATES[cell]
    sources = [name for name in ("inputs", *WEIGHTS) if name in given]
    sources += [f"initial_{s}" for s in states if f"initial_{s}" in given]
    for name in sources:
        given[name].requires_grad_(True)
    units = arrays["recurrent_kernel"].shape[0]
    zeros = torch.zeros(batch, units, dtype=torch.float64, device=where)
    state = [given.get(f"initial_{s}", zeros) for s in states]
    output, outputs = zeros, []
    step = {"gru": _gru, "gru_reset_before": _gru_reset_before, "lstm": _lstm}[cell]
    for t in reversed(range(time)) if go_backwards else range(time):
        real = mask[:, t, None]
        new = step(given["inputs"][:, t], state, *(given[name] for name in WEIGHTS))
        state = [torch.where(real, n, s) for n, s in zip(new, state)]
        output = torch.where(real, new[0], 0.0 if zero_output_for_mask else output)
        outputs.append(output)
    results = {"outputs": torch.stack(outputs, 1)}
    results |= {f"state_{name}": value for name, value in zip(states, state)}
    gradients = {"outputs": given.get("d_outputs")}
    gradients |= {f"state_{name}": given.get(f"d_state_{name}") for name in states}
    scalar = sum((results[n] * g).sum() for n, g in gradients.items() if g is not None)
    taken = torch.autograd.grad(scalar, [given[name] for name in sources])
    results |= {f"d_{name}": gradient for name, gradient in zip(sources, taken)}
    return {name: value.detach().cpu().numpy() for name, value in results.items()}


def _gru(x, state, kernel, recurrent_kernel, bias):
    (h,) = state
    x_z, x_r, x_n = (x @ kernel + bias[0]).chunk(3, 1)
    h_z, h_r, h_n = (h @ recurrent_kernel + bias[1]).chunk(3, 1)
    z, r = (x_z + h_z).sigmoid(), (x_r + h_r).sigmoid()
    return [z * h + (1 - z) * (x_n + r * h_n).tanh()]


def _gru_reset_before(x, state, kernel, recurrent_kernel, bias):
    (h,) = state
    x_z, x_r, x_n = (x @ kernel + bias).chunk(3, 1)
    u_z, u_r, u_n = recurrent_kernel.chunk(3, 1)
    z, r = (x_z + h @ u_z).sigmoid(), (x_r + h @ u_r).sigmoid()
    return [z * h + (1 - z) * (x_n + (r * h) @ u_n).tanh()]


def _lstm(x, state, kernel, recurrent_kernel, bias):
    h, c = state
    i, f, g, o = (x @ kernel + h @ recurrent_kernel + bias).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return [o.sigmoid() * c.tanh(), c]


def _in_numpy(cell, arrays, go_backwards, zero_output_for_mask):
    from masked_rnn import reference

    arrays = dict(arrays)
    gradients = {name: arrays.pop(name) for name in list(arrays) if name.startswith("d_")}
    options = {"go_backwards": go_backwards, "zero_output_for_mask": zero_output_for_mask}
    states = STATES[cell]
    outputs, *state = reference.forward(cell, **arrays, **options)
    taken = reference.backward(cell, **arrays, **options, **gradients)
    found = {"outputs": outputs}
    found |= {f"state_{name}": value for name, value in zip(states, state)}
    found |= {f"d_{name}": value for name, value in zip(("inputs", *WEIGHTS), taken)}
    found |= {f"d_initial_{name}": value for name, value in zip(states, taken[4:])}
    return found
