"""Every implementation that is timed, ours and the peers: each one function.

A function takes a `Problem` and the number of threads and returns a `Run`; it raises
`Unavailable` with the reason where it cannot do the case. To add a peer, write its function and
enter it in PEERS.
"""

import importlib
from typing import Any, Callable, NamedTuple

import numpy as np

GRADIENTS = ("inputs", "kernel", "recurrent_kernel", "bias")


class Run(NamedTuple):
    """A prepared call.

    Attributes:
        call: does the work once; what it returns is in the library's own form.
        numbers: turns that into {name: float64 array} in Keras's layout: {"outputs": [B,T,H]}
            forward, the GRADIENTS in training.
    """

    call: Callable[[], Any]
    numbers: Callable[[Any], dict]


class Unavailable(Exception):
    """The reason why an implementation cannot do a case."""


# --- ours ------------------------------------------------------------------------------------


def ours(problem, threads):
    """masked_rnn's layer in a tf.function."""
    return _in_tensorflow(problem, layer(problem, "masked_rnn"))


def ours_numpy(problem, threads):
    """masked_rnn.numpy, without TensorFlow."""
    import masked_rnn.numpy as rnn

    case = problem.case
    lstm = case.cell == "lstm"
    arguments = (problem.inputs, *problem.weights, problem.mask)
    options = {} if lstm else {"reset_after": case.cell == "gru"}
    if case.training:
        function, options["d_outputs"] = rnn.lstm_vjp if lstm else rnn.gru_vjp, problem.d_outputs
        return Run(
            lambda: function(*arguments, **options),
            lambda result: {n: _float64(getattr(result, n)) for n in GRADIENTS},
        )
    function = rnn.lstm if lstm else rnn.gru
    return Run(
        lambda: function(*arguments, **options), lambda result: {"outputs": _float64(result[0])}
    )


# --- Keras -----------------------------------------------------------------------------------


def keras(problem, threads):
    """Keras's layer, its generic loop (there is no other on a CPU), in a tf.function."""
    return _in_tensorflow(problem, layer(problem, "keras"))


def keras_xla(problem, threads):
    """The same, compiled by XLA."""
    return _in_tensorflow(problem, layer(problem, "keras"), jit_compile=True)


def keras_empty_loop(problem, threads):
    """Keras's layer with an inner_loop that computes nothing: what a layer's call costs."""
    import tensorflow as tf

    case = problem.case
    if case.training:
        raise Unavailable("has no gradients")

    def inner_loop(sequences, initial_state, mask, training=False):
        last = tf.zeros([case.batch, case.units], sequences.dtype)
        outputs = tf.zeros([case.batch, case.time, case.units], sequences.dtype)
        return last, outputs, [last] * (2 if case.cell == "lstm" else 1)

    empty = layer(problem, "keras")
    empty.inner_loop = inner_loop
    return _in_tensorflow(problem, empty)


def layer(problem, package, **arguments):
    """Keras's or masked_rnn's layer, built, with the problem's weights.

    Args:
        problem: a `Problem`.
        package: "keras" or "masked_rnn".
        arguments: of the layer, besides those that the case gives.
    """
    case = problem.case
    if package == "keras":
        package = "keras.layers"
        arguments["use_cudnn"] = False
    if case.cell != "lstm":
        arguments["reset_after"] = case.cell == "gru"
    kind = getattr(importlib.import_module(package), "LSTM" if case.cell == "lstm" else "GRU")
    policy = f"mixed_{case.dtype}" if "16" in case.dtype else case.dtype
    built = kind(case.units, return_sequences=True, dtype=policy, **arguments)
    built.build((case.batch, case.time, case.features))
    weights = problem.weights
    if case.cell == "gru_reset_before":
        weights = [*weights[:2], weights[2].reshape(built.cell.bias.shape)]
    built.set_weights(weights)
    return built


def steps_in_tensorflow(built, training):
    """The layer's work on (inputs, mask, d_outputs), as a list of tensors.

    That is [outputs], or in training the gradients of inputs and weights.
    """
    import tensorflow as tf

    def forward(inputs, mask, d_outputs=None):
        return [built(inputs, mask=mask)]

    def forward_and_gradients(inputs, mask, d_outputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = built(inputs, mask=mask)
        sources = [inputs, *(w.value for w in built.trainable_weights)]
        return tape.gradient(outputs, sources, output_gradients=d_outputs)

    return forward_and_gradients if training else forward


def tensors(problem):
    """(inputs, mask, d_outputs) as TensorFlow's; None stays None."""
    import tensorflow as tf

    arrays = problem.inputs, problem.mask, problem.d_outputs
    return tuple(None if array is None else tf.constant(array) for array in arrays)


def _in_tensorflow(problem, built, jit_compile=False):
    import tensorflow as tf

    training = problem.case.training
    work = steps_in_tensorflow(built, training)
    function = tf.function(work, autograph=False, jit_compile=jit_compile)
    arguments = tensors(problem)
    names = GRADIENTS if training else ("outputs",)
    return Run(
        lambda: function(*arguments),
        lambda result: {n: _float64(tf.convert_to_tensor(a)) for n, a in zip(names, result)},
    )


# --- PyTorch ---------------------------------------------------------------------------------


def torch_packed(problem, threads, device="cpu"):
    """torch.nn.GRU or LSTM on a PackedSequence, packing and padding included, as it is used."""
    case = problem.case
    if not case.masked:
        raise Unavailable("nothing to pack in a dense batch: see torch_padded")
    _needs_right_padding(case)
    torch = _import("torch")
    rnn = torch.nn.utils.rnn
    lengths = torch.from_numpy(problem.lengths)

    def run(module, inputs):
        packed = rnn.pack_padded_sequence(inputs, lengths, enforce_sorted=False)
        return rnn.pad_packed_sequence(module(packed)[0], total_length=case.time)[0]

    return _in_torch(problem, threads, device, run)


def torch_padded(problem, threads, device="cpu"):
    """torch.nn.GRU or LSTM on the padded batch: the state runs on over the padding."""
    if problem.case.masked:
        # Right at real steps, as these come first.
        _needs_right_padding(problem.case)
    return _in_torch(problem, threads, device, lambda module, inputs: module(inputs)[0])


def _in_torch(problem, threads, device, run):
    torch = _import("torch")
    case = problem.case
    if case.cell == "gru_reset_before":
        raise Unavailable("has GRU with reset_after only")
    torch.set_num_threads(threads)
    dtype = getattr(torch, case.dtype)

    def tensor(array):
        # By way of float32, as NumPy knows no bfloat16; the same numbers.
        if "16" in case.dtype:
            return torch.from_numpy(array.astype(np.float32)).to(device, dtype)
        return torch.from_numpy(np.array(array)).to(device)

    # Keras's z, r, h are r, z, n here; an LSTM has Keras's order.
    order = (1, 0, 2) if case.cell == "gru" else (0, 1, 2, 3)
    kind = torch.nn.GRU if case.cell == "gru" else torch.nn.LSTM
    module = kind(case.features, case.units, dtype=dtype, device=device).train(case.training)
    bias = problem.bias if case.cell == "gru" else [problem.bias, np.zeros_like(problem.bias)]
    values = [problem.kernel.T, problem.recurrent_kernel.T, *bias]
    parameters = [module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0]
    with torch.no_grad():
        for parameter, value in zip(parameters, values):
            parameter.copy_(tensor(_blocks(value, order, 0)))
    inputs = tensor(_time_major(problem.inputs))

    if not case.training:

        def forward():
            with torch.inference_mode():
                return run(module, inputs)

        return Run(forward, lambda y: {"outputs": _batch_major(y.double().cpu().numpy())})

    inputs.requires_grad_(True)
    d_outputs = tensor(_time_major(problem.d_outputs))
    sources = [inputs, *parameters]
    back = np.argsort(order)

    def numbers(gradients):
        d_inputs, *d_parameters = (g.detach().double().cpu().numpy() for g in gradients)
        d_kernel, d_recurrent, *d_bias = (_blocks(g, back, 0) for g in d_parameters)
        d_bias = np.stack(d_bias) if case.cell == "gru" else d_bias[0]
        values = _batch_major(d_inputs), d_kernel.T, d_recurrent.T, d_bias
        return dict(zip(GRADIENTS, values))

    return Run(lambda: torch.autograd.grad(run(module, inputs), sources, d_outputs), numbers)


# --- ONNX Runtime and OpenVINO ---------------------------------------------------------------


def onnxruntime(problem, threads):
    """A session call of the ONNX operator; lengths where the batch is padded."""
    case = problem.case
    _needs_inference(case)
    _needs_right_padding(case)
    ort = _import("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would spin for tenths of a second after the last call and slow the next peer.
    # No cost was seen from stopping them: 0.206 ms in place of 0.205 for GRU 1,200,32,64.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    model = _onnx_model(problem)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {"X": _time_major(problem.inputs)}
    if case.masked:
        feeds["lengths"] = problem.lengths.astype(np.int32)
    return Run(
        lambda: session.run(["Y"], feeds)[0],
        lambda y: {"outputs": _batch_major(_float64(y)[:, 0])},
    )


def openvino(problem, threads):
    """OpenVINO on the same ONNX model, dense batches only."""
    case = problem.case
    _needs_inference(case)
    if case.masked:
        raise Unavailable("dense batches only: with lengths its fused kernel is not used")
    ov = _import("openvino")
    core = ov.Core()
    # float32 must be asked for, as it takes bfloat16 where the CPU has it.
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(_onnx_model(problem)), "CPU", options)
    request = compiled.create_infer_request()
    inputs = [_time_major(problem.inputs)]
    return Run(
        lambda: request.infer(inputs, share_inputs=True, share_outputs=True)[0],
        lambda y: {"outputs": _batch_major(_float64(y)[:, 0])},
    )


def _onnx_model(problem):
    """The bytes of a model X [T,B,I] (, lengths [B]) -> Y [T,1,B,H]."""
    onnx = _import("onnx")
    case = problem.case
    if case.dtype != "float32":
        raise Unavailable("set up for float32 only")
    helper, float32, int32 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    time, batch, features, units = case.time, case.batch, case.features, case.units
    lstm = case.cell == "lstm"
    # Keras's z, r, h is ONNX's; Keras's i, f, c, o is i, o, f, c there.
    order = (0, 3, 1, 2) if lstm else (0, 1, 2)
    bias = problem.bias
    if case.cell != "gru":
        bias = np.stack([bias, np.zeros_like(bias)])
    # [1, G*H, I], [1, G*H, H], [1, 2*G*H]
    weights = {
        "W": _blocks(problem.kernel.T, order, 0)[None],
        "R": _blocks(problem.recurrent_kernel.T, order, 0)[None],
        "B": np.concatenate([_blocks(row, order, 0) for row in bias])[None],
    }
    graph_inputs = [helper.make_tensor_value_info("X", float32, [time, batch, features])]
    if case.masked:
        graph_inputs.append(helper.make_tensor_value_info("lengths", int32, [batch]))
    attributes = {} if lstm else {"linear_before_reset": int(case.cell == "gru")}
    node = helper.make_node(
        "LSTM" if lstm else "GRU",
        ["X", *weights, *(["lengths"] if case.masked else [])],
        ["Y"],
        hidden_size=units,
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "rnn",
        graph_inputs,
        [helper.make_tensor_value_info("Y", float32, [time, 1, batch, units])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(w), n) for n, w in weights.items()],
    )
    opset = helper.make_opsetid("", 14)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


# --- what several share ----------------------------------------------------------------------


def _import(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from None


def _needs_right_padding(case):
    if case.mask in ("left", "holes"):
        raise Unavailable(f"takes lengths only, no mask with {_KINDS[case.mask]}")


def _needs_inference(case):
    if case.training:
        raise Unavailable("inference only")


_KINDS = {"left": "padding on the left", "holes": "holes"}


def _blocks(array, order, axis):
    """The gates' equal blocks along an axis, in another order."""
    blocks = np.split(np.asarray(array), len(order), axis)
    return np.concatenate([blocks[i] for i in order], axis)


def _time_major(array):
    return np.ascontiguousarray(array.swapaxes(0, 1))


def _batch_major(array):
    return array.swapaxes(0, 1)


def _float64(array):
    return np.asarray(array).astype(np.float64)


OURS = {"ours": ours, "ours numpy": ours_numpy}
PEERS = {
    "keras": keras,
    "keras_xla": keras_xla,
    "torch_packed": torch_packed,
    "torch_padded": torch_padded,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
# XLA takes seconds to compile each case.
DEFAULT_PEERS = tuple(name for name in PEERS if name != "keras_xla")
# What is no peer, as it computes nothing.
EMPTY = "empty loop"
IMPLEMENTATIONS = {**OURS, **PEERS, EMPTY: keras_empty_loop}
