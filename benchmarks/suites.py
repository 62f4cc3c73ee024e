"""The suites: questions, each a function of the session that yields results.

To add one, write its function and enter it in SUITES.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from benchmarks import machine, peers, timing
from benchmarks.cases import GATES, PASSES, Case
from benchmarks.results import Goal, Result

GRU = Case("gru", 32, 128, 64, 128)

# Case: (x best peer, x Keras) for half masked forward, training; dense forward, training.
TABLE = {
    GRU: ((2.8, 5), (5, 6), (1.2, 3.3), (2.5, 2.5)),
    Case("gru", 64, 128, 256, 512): ((1.8, 3), (3.2, 4), (1.0, 1.4), (1.7, 2.1)),
    Case("gru", 8, 1000, 64, 256): ((2.3, 6), (8, 10), (1.1, 4), (4.5, 4.5)),
    Case("gru", 512, 30, 32, 32): ((3.2, 6.5), (5, 7), (1.2, 4.5), (2.5, 4)),
    Case("lstm", 32, 128, 64, 128): ((1.5, 4.5), (2.1, 4.5), (1.0, 3), (1.3, 2.5)),
    Case("lstm", 64, 128, 256, 512): ((1.8, 3), (2.2, 3.5), (1.0, 1.6), (1.2, 2.1)),
    Case("lstm", 256, 50, 128, 256): ((1.9, 3.5), (2.5, 3), (1.0, 1.8), (1.5, 1.7)),
}
QUICK_TABLE = (GRU, Case("gru", 512, 30, 32, 32), Case("lstm", 32, 128, 64, 128))
SAME = 1.05  # what "not slower" means where two medians are compared


def needed_share(session, case):
    """The share of the FMA peak to reach, as {"peak": share}, or {} where none is set."""
    if not session.peak.is_fma:
        return {}
    if case.units == 32:
        return {"peak": 0.5 if case.training else 0.6}
    if case.units >= 128 and case.batch >= 32:
        return {"peak": 0.75 if case.training else 0.8}
    return {}


def table(session):
    """seven GRU and LSTM cases, half masked and dense, forward and training, beside all peers"""
    for case in QUICK_TABLE if session.quick else TABLE:
        goals = iter(TABLE[case])
        for mask, training in itertools.product(("right", "dense"), (False, True)):
            one = replace(case, mask=mask, training=training)
            best, keras = next(goals)
            needed = {"best": best, "keras": keras, **needed_share(session, one)}
            yield from timing.measure(session, [one], suite="table", needed=needed)


def masks(session):
    """every kind of mask takes the same time"""
    for case in QUICK_TABLE if session.quick else TABLE:
        for training in (False, True):
            cases = [
                replace(case, mask=mask, training=training) for mask in ("right", "left", "holes")
            ]
            names = ["ours", *_only(session, "keras")]
            right, *others = timing.measure(session, cases, names, suite="masks")
            most = 1.25 if case.units == 32 else 1.10
            for other in others:
                times = other.median() / right.median()
                other.goals.append(Goal("times right", times, most, at_most=True))
            yield from (right, *others)


def odd_sizes(session):
    """no cliff where H is no multiple of a vector: 128, 129, 151, 160"""
    for cell, mask, training in itertools.product(
        ("gru", "lstm"), ("dense", "right"), (False, True)
    ):
        case = replace(GRU, cell=cell, mask=mask, training=training)
        cases = [replace(case, units=units) for units in (128, 129, 151, 160)]
        results = timing.measure(session, cases, ["ours"], suite="odd_sizes")
        r128, r129, r151, r160 = results
        for odd, even in ((r129, r128), (r151, r160)):
            share = 100 * odd.flops() / even.flops()
            what = f"of the GFLOP/s of H {even.case.units}"
            odd.goals.append(Goal(what, share, 75, unit="%"))
        yield from results


def latency(session):
    """one row: NumPy beside an ONNX Runtime session call, the layer beside an empty Keras layer"""
    for cell, mask in itertools.product(("gru", "lstm"), ("dense", "right")):
        case = Case(cell, 1, 200, 32, 64, mask)
        names = ["ours", "ours numpy", *session.peers, peers.EMPTY]
        [result] = timing.measure(session, [case], names, suite="latency")
        if "onnxruntime" in result.seconds:
            times = result.median("onnxruntime") / result.median("ours numpy")
            result.goals.append(Goal("ONNX Runtime, times ours numpy", times, 1.5))
        over = result.median() - result.median(peers.EMPTY) - result.median("ours numpy")
        what = "layer over empty layer and numpy"
        result.goals.append(Goal(what, 1e6 * over, 60, at_most=True, unit=" us"))
        yield result


def bfloat16(session):
    """the mixed_bfloat16 policy beside float32"""
    needed = 1.5 if machine.has_avx512_bf16() else 1 / SAME
    sizes = [(64, 128, 256, 256)] if session.quick else [(64, 128, 256, 256), (64, 128, 256, 512)]
    for cell, size, mask, training in itertools.product(
        ("gru", "lstm"), sizes, ("dense", "right"), (False, True)
    ):
        wide = Case(cell, *size, mask, training=training)
        names = ["ours", "ours numpy"]
        both = timing.measure(session, [wide, replace(wide, dtype="bfloat16")], names,
                              suite="bfloat16")
        for name in names:
            times = both[0].median(name) / both[1].median(name)
            # The promise is about the forward pass; training is only reported.
            least = None if training else needed
            both[1].goals.append(Goal(f"float32, times bfloat16, {name}", times, least))
        yield from both


def growth(session):
    """the time is linear in T, in B and in the share of real steps; and over H, for pictures"""
    base = Case("gru", 16, 128, 32, 64, "right")
    quick = session.quick
    sweeps = {
        "time": [64 * 2**k for k in range(3 if quick else 7)],
        "batch": [8 * 2**k for k in range(3 if quick else 7)],
        "units": [32, 64, 128] if quick else [32, 64, 96, 128, 192, 256, 384, 512],
        "real": [0.25, 0.5, 1.0] if quick else [0.0625, 0.125, 0.25, 0.5, 0.75, 1.0],
    }
    names = ["ours", *_only(session, "keras", "torch_packed", "onnxruntime")]
    for (quantity, values), training in itertools.product(sweeps.items(), (False, True)):
        kinds = ("right", "left", "holes") if quantity == "real" else ("right",)
        # The time of a masked batch is easier to see in one that is not so small.
        start = replace(base, batch=64, units=128) if quantity == "real" else base
        cases = [
            replace(start, mask=kind, training=training, **{quantity: value})
            for kind, value in itertools.product(kinds, values)
        ]
        fields = {"suite": "growth", "sweep": quantity, "detail": f"over {_NAMES[quantity]}"}
        results = timing.measure(session, cases, names, **fields)
        if quantity != "units":
            _judge_doubling(results, quantity)
        yield from results


_NAMES = {"time": "T", "batch": "B", "units": "H", "real": "the share of real steps"}


def _judge_doubling(results, quantity):
    for one, other in itertools.permutations(results, 2):
        same_kind = one.case.mask == other.case.mask
        if same_kind and getattr(other.case, quantity) == 2 * getattr(one.case, quantity):
            times = other.median() / one.median()
            other.goals.append(Goal("times half of it", times, 2.2, at_most=True))


def bucketing(session):
    """shuffled batches of mixed lengths beside the same sequences in batches of one length"""
    batches, rows = (4, 32) if session.quick else (8, 32)
    longest, features, units = 128, 64, 128
    lengths = [longest * (k + 1) // batches for k in range(batches)]
    rng = np.random.default_rng(8)
    shuffled = rng.permutation(np.repeat(lengths, rows)).reshape(batches, rows)
    names = ["ours", *_only(session, "keras")]
    for training in (False, True):
        session.say(f"bucketing, {PASSES[training]}")
        sorted_cases = [Case("gru", rows, n, features, units, training=training) for n in lengths]
        mixed = [
            (Case("gru", rows, int(row.max()), features, units, "right", training=training), row)
            for row in shuffled
        ]
        calls = {}
        for name in names:
            package = "masked_rnn" if name == "ours" else "keras"
            buckets = [(case, None) for case in sorted_cases]
            calls["buckets", name] = _batches_call(package, buckets, training)
            calls["shuffled", name] = _batches_call(package, mixed, training)
        seconds, peaks = timing.interleave(session, calls)
        results = {}
        for kind, case in (("buckets", sorted_cases[-1]), ("shuffled", mixed[0][0])):
            result = results[kind] = Result(
                case, f"{batches} batches, {kind}", "bucketing",
                work=float(sum(c.flops() for c in sorted_cases)),
                seconds={name: seconds[kind, name] for name in names},
            )
            timing.set_peak(result, peaks)
        for name in names:
            times = results["shuffled"].median(name) / results["buckets"].median(name)
            most = 1.15 if name == "ours" else None
            goal = Goal(f"{name}, times buckets", times, most, at_most=True)
            results["shuffled"].goals.append(goal)
        yield from results.values()


def _batches_call(package, batches, training):
    """A function that runs all batches, [(case, lengths or None)], through one layer."""
    import tensorflow as tf

    built = peers.layer(batches[0][0].problem(), package)
    function = tf.function(peers.steps_in_tensorflow(built, training), autograph=False)
    arguments = []
    for case, lengths in batches:
        problem = case.problem()
        if lengths is not None:
            problem.mask = np.arange(case.time) < lengths[:, None]
            if training:
                problem.d_outputs[~problem.mask] = 0
        arguments.append(peers.tensors(problem))

    def run():
        for each in arguments:
            function(*each)

    return run


def at_once(session):
    """two calls at once are not slower than one after the other"""
    sizes = [(32, 128, 64, 128)] if session.quick else [
        (32, 128, 64, 128), (8, 1000, 64, 256), (512, 30, 32, 32), (1, 200, 32, 64)]
    for size, training in itertools.product(sizes, (False, True)):
        case = Case("gru", *size, "right", training=training)
        session.say(f"{case}, two at once, {case.pass_name}")
        with ThreadPoolExecutor(2) as pool:
            calls = {
                ("two directions in a tf.function", when): call
                for when, call in _two_directions(case).items()
            }
            pairs, numpy_calls = _two_threads(session, case, pool)
            calls.update((("two Python threads", when), call) for when, call in numpy_calls.items())
            seconds, peaks = timing.interleave(session, calls)
            for when in numpy_calls:
                of_a_pair = [s / pairs for s in seconds["two Python threads", when]]
                seconds["two Python threads", when] = of_a_pair
        for kind in ("two directions in a tf.function", "two Python threads"):
            for when in ("in turn", "at once"):
                result = Result(
                    case, f"{kind}, {when}", "at_once", work=2.0 * case.flops(),
                    seconds={"ours": seconds[kind, when]},
                )
                timing.set_peak(result, peaks)
                if when == "at once":
                    times = result.median() / statistics.median(seconds[kind, "in turn"])
                    result.goals.append(Goal("times in turn", times, SAME, at_most=True))
                yield result


def _two_directions(case):
    """{when: call}: what Bidirectional does, its two layers free to overlap or held apart."""
    import tensorflow as tf

    problem = case.problem()
    forwards = peers.layer(problem, "masked_rnn")
    backwards = peers.layer(problem, "masked_rnn", go_backwards=True)
    first, second = (peers.steps_in_tensorflow(x, case.training) for x in (forwards, backwards))

    def together(*arguments):
        return first(*arguments) + second(*arguments)

    def in_turn(inputs, *others):
        done = first(inputs, *others)
        with tf.control_dependencies(done):
            return done + second(tf.identity(inputs), *others)

    arguments = peers.tensors(problem)
    functions = {
        "at once": tf.function(together, autograph=False),
        "in turn": tf.function(in_turn, autograph=False),
    }
    return {when: _bound(function, arguments) for when, function in functions.items()}


def _two_threads(session, case, pool):
    """How many pairs of NumPy calls, and {when: call}: by two threads, or by one."""
    call = peers.ours_numpy(case.problem(), session.threads).call
    start = time.perf_counter()
    call()
    pairs = 1 + int(0.02 / (time.perf_counter() - start))  # handing work to threads takes 0.1 ms

    def several(times):
        for _ in range(times):
            call()

    return pairs, {
        "at once": lambda: list(pool.map(several, [pairs, pairs])),
        "in turn": lambda: several(2 * pairs),
    }


def _bound(function, arguments):
    return lambda: function(*arguments)


def invariance(session):
    """what it costs that a row's numbers depend on that row only: few rows, beside the peers"""
    batches = (1, 2, 5) if session.quick else (1, 2, 3, 5, 8, 16, 32)
    for cell, units in (("gru", 64), ("gru", 256), ("lstm", 128)):
        cases = [Case(cell, batch, 128, 64, units) for batch in batches]
        for result in timing.measure(session, cases, suite="invariance"):
            same = _rows_are_invariant(replace(result.case, mask="holes", batch=max(batches)),
                                       result.case.batch)
            result.goals.append(Goal("rows equal bit by bit (1: yes)", float(same), 1))
            yield result


def _rows_are_invariant(case, rows):
    """Whether the first rows of a batch have the same bits alone, in the batch, on one thread."""
    from masked_rnn import _core

    problem = case.problem()

    def outputs(inputs, mask, threads=0):
        arguments = (*problem.weights, mask, None, None, None, None, "tanh", "sigmoid")
        options = False, False, True, False, "", threads
        return np.asarray(_core.forward(case.cell, inputs, *arguments, *options)[0])

    first = outputs(problem.inputs[:rows].copy(), problem.mask[:rows].copy())
    other_masks = problem.mask.copy()
    other_masks[rows:] = ~other_masks[rows:]
    others = (
        outputs(problem.inputs, problem.mask)[:rows],
        outputs(problem.inputs, problem.mask, threads=1)[:rows],
        outputs(problem.inputs, other_masks)[:rows],
        outputs(problem.inputs[::-1].copy(), problem.mask[::-1].copy())[::-1][:rows],
    )
    return all(first.tobytes() == np.ascontiguousarray(other).tobytes() for other in others)


def oversubscription(session):
    """twice as many busy processes as threads: the median and the worst call"""
    calls = 20 if session.quick else 100
    number = 2 * session.threads
    names = ["ours", *_only(session, "keras")]
    for size in ((32, 128, 64, 128), (8, 1000, 64, 256)):
        case = Case("gru", *size, "right")
        idle = Result(case, "no other process", "oversubscription")
        busy = Result(case, f"{number} busy processes", "oversubscription")
        session.say(f"{case}, {busy.detail}")
        ready = timing.prepare(session, idle, names)
        peak = [session.peak.measure()]
        idle.seconds = {n: timing.turn(call, calls) for n, call in ready.items()}
        with _BusyProcesses(number):
            # Keras's call takes long then.
            busy.seconds = {
                n: timing.turn(call, calls if n == "ours" else max(5, calls // 5))
                for n, call in ready.items()
            }
        for result in (idle, busy):
            timing.set_peak(result, peak)
        for name in ready:
            usual, worst = idle.median(name), max(busy.seconds[name])
            limits = (4, 100) if name == "ours" else (None, None)
            times, over = busy.median(name) / usual, 1e3 * (worst - usual)
            busy.goals += [
                Goal(f"{name}, median times usual", times, limits[0], at_most=True),
                Goal(f"{name}, worst over usual", over, limits[1], at_most=True, unit=" ms"),
            ]
        yield from (idle, busy)


class _BusyProcesses:
    """While entered, so many processes keep the same CPUs busy."""

    # Ends by itself when its parent has gone.
    _SCRIPT = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10**5))"

    def __init__(self, number):
        self._number = number
        self._processes = []

    def __enter__(self):
        command = [sys.executable, "-S", "-c", self._SCRIPT]
        for _ in range(self._number):
            self._processes.append(subprocess.Popen(command))
        time.sleep(0.5)

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def memory(session):
    """the most memory that a call needs besides its inputs, and what is kept for the gradient"""
    from masked_rnn import _core

    for cell in ("gru", "lstm"):
        case = Case(cell, 32, 250 if session.quick else 1000, 32, 128, "right", training=True)
        session.say(f"{case}, memory")
        peaks = {n: _peak_bytes(session, case, n) for n in ("ours", "keras")}
        result = Result(case, "memory of a training step, and Keras's", "memory")
        ours, keras = (peaks[name] / 2**20 for name in ("ours", "keras"))
        goal = Goal("peak", ours, keras, at_most=True, unit=" MiB")
        result.goals.append(goal)
        problem = case.problem()
        arguments = (problem.inputs, *problem.weights, problem.mask, None, None, None, None, "tanh",
                     "sigmoid", False, False, True)
        kept = _core.forward(cell, *arguments, True)[3].nbytes
        # And a cache line, to align it.
        most = 4 * (GATES[cell] + 2) * case.real_steps() * case.units + 64
        result.goals.append(
            Goal("kept, of (gates + 2) * real steps * H", 100 * kept / most, 100, True, "%")
        )
        yield result

        case = replace(case, training=False)
        result = Result(case, "return_sequences=False, and a [B,T,H]", "memory")
        outputs = 4 * case.batch * case.time * case.units
        last = _peak_bytes(session, case, "ours", return_sequences=False)
        goal = Goal("peak", last / 2**20, outputs / 2**20, at_most=True, unit=" MiB")
        result.goals.append(goal)
        yield result


def _peak_bytes(session, case, name, return_sequences=True):
    """Measured in a process of its own, as a process keeps memory that it has once had."""
    task = {
        "package": "masked_rnn" if name == "ours" else "keras",
        "case": {f: getattr(case, f) for f in case.__dataclass_fields__},
        "threads": session.threads,
        "return_sequences": return_sequences,
    }
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ)
    return int(done.stdout.split()[-1])


def accuracy(session):
    """sums of weight gradients over 64,000 steps, beside NumPy's float32 product of matrices"""
    import masked_rnn.numpy as rnn

    units = 32
    for cell in ("gru", "lstm"):
        # The input kernel is the identity, so that the gradient of the inputs is that of the
        # gates, bit by bit, and the weights' gradient is a product of known matrices.
        case = Case(cell, 64, 1000, GATES[cell] * units, units, training=True)
        session.say(f"{case}, accuracy")
        problem = case.problem()
        problem.kernel = np.eye(case.features, dtype=np.float32)
        options = {"reset_after": True} if cell == "gru" else {}
        forward, vjp = (rnn.gru, rnn.gru_vjp) if cell == "gru" else (rnn.lstm, rnn.lstm_vjp)
        outputs, _ = forward(problem.inputs, *problem.weights, **options)
        gradients = vjp(problem.inputs, *problem.weights, d_outputs=problem.d_outputs, **options)
        d_gates = gradients.inputs.reshape(-1, case.features)
        states = np.zeros_like(outputs)
        states[:, 1:] = outputs[:, :-1]
        pairs = {"kernel": problem.inputs}
        if cell == "lstm":  # with reset_after, the recurrent product has other gradients
            pairs["recurrent_kernel"] = states
        for name, factor in pairs.items():
            factor = factor.reshape(-1, factor.shape[-1])
            exact = factor.T.astype(np.float64) @ d_gates.astype(np.float64)
            result = Result(case, f"error of d_{name}, and NumPy's", "accuracy")
            got = np.abs(getattr(gradients, name) - exact).max()
            numpy_error = np.abs(factor.T @ d_gates - exact).max()
            scale = np.abs(exact).max()
            result.goals.append(
                Goal("relative error", got / scale, numpy_error / scale, at_most=True)
            )
            yield result


def _only(session, *names):
    return [name for name in names if name in session.peers]


SUITES = {
    function.__name__: function
    for function in (
        table, latency, masks, odd_sizes, bfloat16, growth, bucketing, at_once, invariance,
        oversubscription, memory, accuracy,
    )
}
