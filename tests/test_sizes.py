"""Sizes beyond 32 bits, products that overflow, and memory that cannot be had."""

import os
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest

from masked_rnn import _core
from masked_rnn import numpy as mnp

GIB = 2**30


def available_memory():
    """Bytes that the machine, or the group of processes that this one is in, still has."""
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open(
            "/sys/fs/cgroup/memory.current"
        ) as used:
            free = min(free, int(limit.read()) - int(used.read()))
    except (OSError, ValueError):
        pass  # no such group, or one without a limit
    return free


def test_more_than_2_31_elements():
    """Outputs and incoming gradients of more than 2^31 elements, nearly all of them masked: each
    row has its real step at the very end, where a 32-bit index would have wrapped around."""
    if available_memory() < 11 * GIB:
        pytest.skip("needs 11 GiB of memory")
    batch, time, features, units = 2, 4_200_000, 1, 256
    dtype = np.dtype(ml_dtypes.bfloat16)
    assert batch * time * units > 2**31
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((features, units)).astype(dtype)
    recurrent_kernel = (rng.standard_normal((units, units)) / 16).astype(dtype)
    inputs = np.zeros((batch, time, features), dtype)
    mask = np.zeros((batch, time), bool)
    real = [(0, 0), (0, time - 1), (1, 0), (1, 5), (1, time - 1)]
    for b, t in real:
        inputs[b, t] = rng.standard_normal()
        mask[b, t] = True
    call = ("simple_rnn", inputs, kernel, recurrent_kernel, None)
    options = (None, None, None, None, "tanh", "sigmoid", False, True, True)
    outputs, state, _, reserve = _core.forward(*call, mask, *options, True)
    assert outputs.size > 2**31

    # The same real steps without what lies between them.
    near = np.zeros((batch, 8), bool), np.zeros((batch, 8, features), dtype)
    places = [(0, 0), (0, 7), (1, 0), (1, 5), (1, 7)]
    for (b, t), (_, there) in zip(real, places):
        near[0][b, there], near[1][b, there] = True, inputs[b, t]
    small = ("simple_rnn", near[1], kernel, recurrent_kernel, None)
    want, want_state, _, want_reserve = _core.forward(*small, near[0], *options, True)
    for (b, t), (_, there) in zip(real, places):
        assert outputs[b, t].tobytes() == want[b, there].tobytes()
        assert np.any(np.asarray(outputs[b, t], np.float32) != 0)
    assert state.tobytes() == want_state.tobytes()
    for t in (1, time // 2, time - 2):
        assert not outputs[:, t].astype(np.float32).any()

    # The outputs' memory serves as the incoming gradient.
    outputs[...] = 0
    d_outputs = np.zeros(want.shape, dtype)
    for (b, t), (_, there) in zip(real, places):
        outputs[b, t] = d_outputs[b, there] = rng.standard_normal(units).astype(dtype)
    gradients = _core.backward(*call, mask, *options, reserve, outputs, None, None)
    wanted = _core.backward(*small, near[0], *options, want_reserve, d_outputs, None, None)
    for (b, t), (_, there) in zip(real, places):
        assert gradients[0][b, t].tobytes() == wanted[0][b, there].tobytes()
    assert np.count_nonzero(gradients[0].astype(np.float32)) == len(real)
    for got, same in zip(gradients[1:3], wanted[1:3]):
        assert got.tobytes() == same.tobytes()


# --- sizes that no machine has -------------------------------------------------------------

HUGE = 2**46  # four bytes of each are more than an address space, wherever memory is promised


def empty(*shape, dtype="float32"):
    return np.empty(shape, dtype)


def virtual(*shape):
    """An array of one number, repeated without memory."""
    return np.broadcast_to(np.float32(0), shape)


@pytest.mark.parametrize(
    "inputs, kernel, recurrent_kernel",
    [
        (virtual(HUGE, 4, 3), empty(3, 3), empty(1, 3)),
        (virtual(2, HUGE, 3), empty(3, 3), empty(1, 3)),
        (virtual(2, 4, HUGE), empty(HUGE, 0), empty(0, 0)),
        (virtual(2, 4, 3), empty(3, 0), virtual(2**29, 3 * 2**29)),
        (empty(2, 4, 0), empty(0, 3 * HUGE), virtual(2**40, 3 * 2**18)),
        (empty(2**59, 0, 3), empty(3, 3), empty(1, 3)),
        (empty(2**58, 4, 0), empty(0, 3), empty(1, 3)),
        (empty(HUGE, 2**10, 0), empty(0, 3), empty(1, 3)),
        (empty(2, HUGE, 0), empty(0, 3), empty(1, 3)),
        (empty(2**60, 0, 0), empty(0, 30), empty(10, 30)),
    ],
    ids=lambda a: "x".join(map(str, a.shape)),
)
def test_sizes_that_cannot_be(inputs, kernel, recurrent_kernel):
    with pytest.raises((MemoryError, ValueError)) as caught:
        mnp.gru(inputs, kernel, recurrent_kernel, reset_after=False)
    assert any(c.isdigit() for c in str(caught.value))  # the size is named


def test_more_time_steps_than_32_bits_is_named():
    with pytest.raises(MemoryError, match="4294967296 time steps"):
        _core.forward(
            "simple_rnn", empty(1, 2**32, 0), empty(0, 1), empty(1, 1), None, None, None, None,
            None, None, "tanh", "sigmoid", False, False, False, False,
        )  # fmt: skip


def run_in_a_process(text, timeout=120):
    """Runs a script; what it prints. A crash fails the test and shows where it was."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=os.getcwd(),
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.split()


def test_every_allocation_may_fail():
    """A limit on memory, raised bit by bit, has one allocation after the other fail, up to where
    the call succeeds; the process then goes on as before."""
    printed = run_in_a_process(
        """
        import resource
        import numpy as np
        from masked_rnn import numpy as mnp

        rng = np.random.default_rng(0)
        def call(units, batch=64, time=100, features=8):
            x = rng.standard_normal((batch, time, features)).astype("float32")
            w = rng.standard_normal((features, 3 * units)).astype("float32") * 0.1
            u = rng.standard_normal((units, 3 * units)).astype("float32") * 0.1
            return x, w, u

        small, large = call(4), call(512)
        d_outputs = np.ones((64, 100, 512), "float32")
        want = mnp.gru(*small, reset_after=False)[0]
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        failed, succeeded = 0, 0
        for room in range(1, 400, 7):
            limit = now + room * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            try:
                mnp.gru_vjp(*large, d_outputs=d_outputs, reset_after=False)
                succeeded += 1
            except MemoryError as error:
                failed += 1
                assert any(c.isdigit() for c in str(error)), error
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            assert (mnp.gru(*small, reset_after=False)[0] == want).all()
            if succeeded == 2:
                break
        print(failed, succeeded)
        """
    )
    assert int(printed[0]) >= 3 and int(printed[1]) == 2


def test_a_workspace_of_the_ops_may_fail():
    """Weights so large beside the outputs that the op's workspace is what fails. (Outputs that
    fail are TensorFlow's own error, which it raises after ten seconds of waiting for memory.)"""
    run_in_a_process(
        """
        import resource
        import numpy as np
        import tensorflow as tf
        import masked_rnn

        def call(units):
            shapes = (1, 2, 8), (8, 4 * units), (units, 4 * units)
            return [tf.fill(s, 0.01) for s in shapes]

        small, large = call(4), call(2048)
        want = masked_rnn.lstm(*small)[0].numpy()
        graph = tf.function(lambda *arrays: masked_rnn.lstm(*arrays)[0])
        graph(*small)
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        for run in (masked_rnn.lstm, graph):
            run(*small)
            resource.setrlimit(resource.RLIMIT_AS, (now + 30 * 2**20, resource.RLIM_INFINITY))
            try:
                run(*large)
                raise SystemExit("64 MiB in 30 MiB")
            except tf.errors.ResourceExhaustedError as error:
                assert "a workspace of 6" in str(error) and "bytes" in str(error), error
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            np.testing.assert_array_equal(masked_rnn.lstm(*small)[0], want)
        masked_rnn.lstm(*large)
        """
    )


def test_threads_that_cannot_be_started():
    """Where the process may make no more threads, a call that asks for some says so, and one on
    the threads that there are works."""
    run_in_a_process(
        """
        import resource
        import numpy as np
        from masked_rnn import _core

        rng = np.random.default_rng(0)
        x, w, u = (rng.standard_normal(s).astype("float32") * 0.1
                   for s in ((256, 50, 8), (8, 96), (32, 96)))
        def call(threads):
            return _core.forward("gru_reset_before", x, w, u, None, None, None, None, None, None,
                                 "tanh", "sigmoid", False, False, True, False, threads=threads)[0]
        want = call(1)
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 60 * 2**20, resource.RLIM_INFINITY))
        for _ in range(3):
            try:
                call(30)
                raise SystemExit("thirty stacks of 8 MiB in 60 MiB")
            except MemoryError as error:
                assert "29 worker threads" in str(error), error
            assert (call(1) == want).all()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        for threads in (30, 10**9):
            assert (call(threads) == want).all()
        for threads in (-1, -(2**31)):
            try:
                call(threads)
                raise SystemExit("negative threads")
            except ValueError as error:
                assert "threads" in str(error)
        """
    )
