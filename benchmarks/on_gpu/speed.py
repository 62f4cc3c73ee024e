"""What a call takes beside PyTorch's cuDNN: forward and training, in turns, medians."""

import dataclasses
import statistics
import time

import numpy as np

from benchmarks import agreement, peers
from benchmarks.cases import Case
from benchmarks.on_gpu.calls import KERNELS, PRECISIONS, Call, Impossible
from benchmarks.on_gpu.floors import floors
from benchmarks.on_gpu.numbers import GRADIENT_FACTOR, TOLERANCES

TURN = 0.02  # seconds that the calls of one turn should take
MOST_CALLS = 50  # in a turn
ROUNDS = 7
PEERS = {"torch packed": peers.torch_packed, "torch padded": peers.torch_padded}

# B,T,I,H -> how many times faster than cuDNN's packed run (right-padded, half masked) the kernels
# are designed to be, in float32 and TF32.
GOALS = {(64, 128, 256, 512): 3, (32, 64, 128, 128): 8, (8, 1000, 64, 256): 8}


def suite():
    """[(case, precision)], what matters most first."""
    found = []
    for precision in ("tf32", "bfloat16", "float32"):
        for cell in ("lstm", "gru"):
            for sizes in GOALS:
                found.append((Case(cell, *sizes, mask="right"), precision))
    for mask in ("holes", "left", "dense"):
        for cell in ("lstm", "gru"):
            found.append((Case(cell, *next(iter(GOALS)), mask=mask), "tf32"))
    found.append((Case("lstm", 64, 256, 512, 1024, mask="right"), "bfloat16"))
    cases = [
        (dataclasses.replace(case, dtype=PRECISIONS[precision][0], training=training), precision)
        for case, precision in found
        for training in (False, True)
    ]
    return cases


def emulated_suite():
    """As `suite`, of a size for the CPU shim."""
    return [
        (Case(cell, 6, 5, 7, 9, "right", 0.5, PRECISIONS[precision][0], training), precision)
        for cell, precision in (("lstm", "tf32"), ("gru", "bfloat16"))
        for training in (False, True)
    ]


@dataclasses.dataclass
class Timing:
    """One line of the table.

    Attributes:
        chosen: the kernel that a plain call takes; in training that of forward and of backward.
        seconds: {implementation: median seconds of a call in each round}; our kernels by name.
        skipped: {implementation: why}.
        floor: {"memory", "products", "exchange"}: seconds.
        errors: {implementation: difference from ours, in units of what is tolerated}.
    """

    case: Case
    precision: str
    chosen: str
    floor: dict
    seconds: dict = dataclasses.field(default_factory=dict)
    skipped: dict = dataclasses.field(default_factory=dict)
    errors: dict = dataclasses.field(default_factory=dict)

    def median(self, name):
        return statistics.median(self.seconds[name]) if name in self.seconds else None

    @property
    def ours(self):
        """Seconds of a plain call."""
        return self.median("ours")

    @property
    def bound(self):
        """The name of the largest floor."""
        return max(self.floor, key=self.floor.get)

    @property
    def share(self):
        """Of the floor, 1 at most."""
        return self.floor[self.bound] / self.ours

    def ratio(self, peer):
        """How many times as long as ours a peer takes, or None."""
        return self.median(peer) / self.ours if peer in self.seconds else None

    @property
    def goal(self):
        """The ratio to "torch packed" that is wanted, or None."""
        case = self.case
        if case.mask != "right" or self.precision not in ("float32", "tf32"):
            return None
        return GOALS.get((case.batch, case.time, case.features, case.units))

    def as_json(self):
        record = dataclasses.asdict(self)
        record |= {"bound": self.bound, "share": self.share, "goal": self.goal}
        record["us_per_step"] = {n: 1e6 * self.median(n) / self.case.time for n in self.seconds}
        record["ratios"] = {name: self.ratio(name) for name in PEERS if name in self.seconds}
        return record


def run(device, properties, todo, seconds, rounds, say):
    """Times cases until they are done or the time is up.

    Returns:
        [`Timing`] and the number of cases that were not reached.
    """
    end = time.monotonic() + seconds
    timings = []
    for number, (case, precision) in enumerate(todo):
        if time.monotonic() > end:
            return timings, len(todo) - number
        say(f"{case}, {case.mask}, {precision}, {case.pass_name}")
        timings.append(measure(device, properties, case, precision, rounds))
    return timings, 0


def measure(device, properties, case, precision, rounds):
    """A `Timing`: all kernels that can do the case, and the peers, in the same rounds."""
    problem = case.problem()
    arrays = dict(inputs=problem.inputs, kernel=problem.kernel, bias=problem.bias,
                  recurrent_kernel=problem.recurrent_kernel, mask=problem.mask,
                  d_outputs=problem.d_outputs)  # fmt: skip
    plain = Call(device, case.cell, precision, "", arrays)
    names = plain.chosen() if case.training else plain.chosen()[:1]
    timing = Timing(
        case, precision, " + ".join(dict.fromkeys(names)), floors(case, precision, properties)
    )
    calls = {"ours": _work(plain, case)}
    want = _numbers(device, case, calls["ours"]())
    for kernel in KERNELS:
        try:
            work = _work(Call(device, case.cell, precision, kernel, arrays), case)
            got = _numbers(device, case, work())
        except Impossible as reason:
            timing.skipped[kernel] = str(reason)
            continue
        _enter(timing, calls, kernel, work, problem, got, want)
    for name, build in PEERS.items():
        if device.peers_on is None:
            timing.skipped[name] = "PyTorch is not installed"
            continue
        try:
            _allow_tf32(PRECISIONS[precision][1])
            peer = build(problem, 1, device.peers_on)
            got = peer.numbers(peer.call())
        except peers.Unavailable as reason:
            timing.skipped[name] = str(reason)
            continue
        except RuntimeError as error:  # cuDNN refuses some calls
            timing.skipped[name] = str(error).splitlines()[0]
            continue
        _enter(timing, calls, name, peer.call, problem, got, want)
    timing.seconds = interleave(device, calls, rounds)
    return timing


def interleave(device, calls, rounds):
    """{key: [seconds of a call in each round]}: in each, all have a turn, in an order drawn anew."""
    times, seconds, order = {}, {key: [] for key in calls}, np.random.default_rng(7)
    for key, call in calls.items():
        device.seconds(call, 1)
        once = max(device.seconds(call, 1), 1e-7)
        times[key] = int(min(MOST_CALLS, max(1, TURN / once)))
    for _ in range(rounds):
        for at in order.permutation(len(calls)):
            key = list(calls)[at]
            seconds[key].append(device.seconds(calls[key], times[key]))
    return seconds


def _work(call, case):
    return call.training if case.training else call.forward


def _numbers(device, case, result):
    """As `peers.Run.numbers`."""
    if not case.training:
        return {"outputs": device.get(result[0])}
    return {name: device.get(getattr(result, name)) for name in peers.GRADIENTS}


def _enter(timing, calls, name, call, problem, got, want):
    """Among what is timed if its numbers are ours, else among the errors alone."""
    tolerated = TOLERANCES[timing.precision] * (GRADIENT_FACTOR if timing.case.training else 1)
    timing.errors[name] = agreement.difference(problem, got, want) / tolerated
    if timing.errors[name] <= 1:
        calls[name] = call


def _allow_tf32(allowed):
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
