"""One call in a process of its own: prints how many bytes it needed at most.

    python -m benchmarks.memory JSON    (suites.py says what stands there)
"""

import json
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.cases import Case


def status(key):
    """Bytes, a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return 1024 * int(value.split()[0])
    raise KeyError(key)


def peak_bytes(case, package, return_sequences):
    """What the resident memory grows by at most during one call, its outputs included."""
    import tensorflow as tf

    from benchmarks import peers

    problem = case.problem()
    built = peers.layer(problem, package)
    built.return_sequences = return_sequences
    work = peers.steps_in_tensorflow(built, case.training)
    dtype = tf.as_dtype(problem.inputs.dtype)
    signature = [
        tf.TensorSpec([None, None, case.features], dtype),
        tf.TensorSpec([None, None], tf.bool),
        tf.TensorSpec([None, None, case.units], dtype),
    ][: 3 if case.training else 2]
    function = tf.function(work, signature, autograph=False)
    arguments = peers.tensors(problem)[: len(signature)]
    # Traced, and warm, on a few steps: what that needs does not count.
    function(*(argument[:, :4] for argument in arguments))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is there now
    before = status("VmRSS")
    function(*arguments)
    return status("VmHWM") - before


def main():
    task = json.loads(sys.argv[1])
    machine.confine(task["threads"])
    machine.start_tensorflow(task["threads"])
    print(peak_bytes(Case(**task["case"]), task["package"], task["return_sequences"]))


if __name__ == "__main__":
    main()
