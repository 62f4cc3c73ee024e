"""One call of masked_rnn.numpy on a GPU: its arrays there, its options, its results."""

import contextlib
import functools

import masked_rnn.numpy as rnn
from benchmarks.on_gpu.devices import Impossible
from masked_rnn import cuda

KERNELS = ("general", "resident", "cluster")
# What products are computed in: the dtype of the arrays, and whether TF32 is allowed.
PRECISIONS = {
    "float32": ("float32", False),
    "tf32": ("float32", True),
    "bfloat16": ("bfloat16", False),
    "float16": ("float16", False),
    "float64": ("float64", False),
}
STATES = {"gru": ("h",), "gru_reset_before": ("h",), "lstm": ("h", "c")}
WEIGHTS = ("kernel", "recurrent_kernel", "bias")


class Call:
    """A call whose arrays are on the device.

    Args:
        device: of devices.py.
        cell: "gru", "gru_reset_before" or "lstm".
        precision: of PRECISIONS.
        kernel: of KERNELS, or "" for the one that is chosen.
        arrays: {"inputs", "kernel", "recurrent_kernel", "bias", "mask", "initial_h",
            "initial_c", "d_outputs", "d_state_h", "d_state_c"} of NumPy's, absent ones left out.
        options: go_backwards, zero_output_for_mask.
    """

    def __init__(self, device, cell, precision, kernel, arrays, **options):
        self.device, self.cell = device, cell
        self._options = {"tf32": PRECISIONS[precision][1], "kernel": kernel}
        given = {name: device.put(array) for name, array in arrays.items() if array is not None}
        self._arrays = given
        states = [given.get(f"initial_{state}") for state in STATES[cell]]
        gradients = [given.get(f"d_state_{state}") for state in STATES[cell]]
        arguments = {name: given[name] for name in ("inputs", *WEIGHTS)}
        arguments |= {"mask": given.get("mask"), **options}
        if cell != "lstm":
            arguments["reset_after"] = cell == "gru"
        if states[0] is not None:
            arguments["initial_state"] = states[0] if len(states) == 1 else tuple(states)
        functions = (rnn.lstm, rnn.lstm_vjp) if cell == "lstm" else (rnn.gru, rnn.gru_vjp)
        self._forward = functools.partial(functions[0], **arguments)
        if gradients[0] is not None:
            arguments["d_state"] = gradients[0] if len(gradients) == 1 else tuple(gradients)
        self._training = functools.partial(
            functions[1], **arguments, d_outputs=given.get("d_outputs")
        )

    def forward(self):
        """Queues the call; (outputs, state)."""
        with self._set():
            return self._forward(stream=self.device.stream)

    def training(self):
        """Queues forward and backward; `Gradients`."""
        with self._set():
            return self._training(stream=self.device.stream)

    def chosen(self):
        """The names of the kernels that forward and backward take."""
        arrays = [self._arrays.get(name) for name in ("inputs", *WEIGHTS, "mask")]
        arguments = rnn._arguments(
            self.cell, *arrays, None, None, None, "tanh", "sigmoid", False, False,
            self.device.stream,
        )  # fmt: skip
        with self._set():
            return cuda.kernels(self.cell, arguments)

    @contextlib.contextmanager
    def _set(self):
        with cuda.options(**self._options):
            try:
                yield
            except (ValueError, MemoryError, RuntimeError) as error:
                text = str(error)
                # The shim has kernels that are made for a size for a few sizes only.
                if not text.startswith("kernel is ") and "cusim: no kernel is named" not in text:
                    raise
                raise Impossible(text) from None

    def numbers(self):
        """{name: float64 NumPy array} of what forward and training give, once."""
        outputs, state = self.forward()
        gradients = self.training()
        states = state if self.cell == "lstm" else (state,)
        found = {"outputs": outputs}
        found |= {f"state_{name}": array for name, array in zip(STATES[self.cell], states)}
        found |= {f"d_{name}": getattr(gradients, name) for name in ("inputs", *WEIGHTS)}
        if gradients.initial_state is not None:
            initial = gradients.initial_state
            initial = initial if self.cell == "lstm" else (initial,)
            found |= {f"d_initial_{n}": array for n, array in zip(STATES[self.cell], initial)}
        return {name: self.device.get(array) for name, array in found.items()}
