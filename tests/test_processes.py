"""Threads, forks, interrupts and the end of the interpreter: nothing hangs or is left over, and the
numbers stay right."""

import os
import threading

import numpy as np
import pytest
import tensorflow as tf

import masked_rnn

from .pairs import NAMES, keras, make_pair, results_and_gradients
from .programs import run

SECONDS = 60  # what takes longer hangs


def at_once(jobs):
    """The results of functions without arguments, each run in a thread of its own."""
    results, errors = [None] * len(jobs), []
    together = threading.Barrier(len(jobs))

    def work(i):
        try:
            together.wait(SECONDS)
            results[i] = jobs[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def arrays(seed, batch=9, time=11, features=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, time, features)), rng.random((batch, time)) < 0.6


def same_bits(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# --- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_eight_threads_on_one_layer(name):
    arguments = dict(units=17, return_sequences=True, return_state=True, dtype="float64")
    keras_layer, layer = make_pair(name, 5, **arguments)
    inputs = [arrays(seed, batch=1 + 4 * seed) for seed in range(8)]

    def job(x, mask):
        def many():
            return [sum(results_and_gradients(layer, x, mask=mask), []) for _ in range(5)]

        return many

    want = [sum(results_and_gradients(layer, x, mask=mask), []) for x, mask in inputs]
    theirs = sum(results_and_gradients(keras_layer, *inputs[3][:1], mask=inputs[3][1]), [])
    for a, b in zip(want[3], theirs):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, abs(b).max()))
    for got, expected in zip(at_once([job(*each) for each in inputs]), want):
        for repetition in got:
            same_bits(repetition, expected)


def test_threads_do_not_take_each_others_dropout():
    """Masks of one thread's batch size, or of the graph that it traces, are of no use to another."""
    layer = masked_rnn.GRU(7, dropout=0.3, recurrent_dropout=0.3)
    layer.build((None, None, 5))
    inputs = [arrays(seed, batch=1 + seed)[0] for seed in range(8)]

    def eager(x):
        return lambda: [layer(x, training=True) for _ in range(10)]

    def traced(x):  # every one anew
        return lambda: [tf.function(lambda: layer(x, training=True))() for _ in range(3)]

    jobs = [(traced if i == 0 else eager)(x) for i, x in enumerate(inputs)]
    for x, results in zip(inputs, at_once(jobs)):
        assert all(y.shape == (len(x), 7) and np.isfinite(y).all() for y in results)
        assert not np.array_equal(*results[:2])  # drawn anew at every call


def trained(kind, seed):
    """Weights and losses of a small model after two epochs."""
    x, mask = arrays(seed, batch=24)
    x = np.where(mask[:, :, None], x, 0).astype("float32")
    y = np.random.default_rng(seed).standard_normal((24, 1)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((None, 5)),
            keras.layers.Masking(),
            kind(12, kernel_initializer=keras.initializers.GlorotUniform(seed), seed=seed),
            keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed)),
        ]
    )
    recurrent = model.layers[1]
    recurrent.cell.recurrent_kernel.assign(
        np.random.default_rng(seed + 1).standard_normal(recurrent.cell.recurrent_kernel.shape) / 4
    )
    model.compile("adam", "mse")
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return [*model.get_weights(), np.array(history.history["loss"])]


def test_two_models_that_train_at_once():
    kinds = masked_rnn.GRU, masked_rnn.LSTM
    want = [trained(kind, seed) for seed, kind in enumerate(kinds)]
    got = at_once([lambda seed=s, kind=k: trained(kind, seed) for s, k in enumerate(kinds)])
    for ours, alone in zip(got, want):
        same_bits(ours, alone)


def test_a_dataset_that_maps_in_four_threads():
    layer = masked_rnn.LSTM(6)
    x, mask = arrays(0, batch=40)
    x = x.astype("float32")
    want = layer(x, mask=mask).numpy()
    rows = tf.data.Dataset.from_tensor_slices((x, mask)).batch(4)
    got = rows.map(lambda x, mask: layer(x, mask=mask), num_parallel_calls=4, deterministic=True)
    same_bits([np.concatenate(list(got.as_numpy_iterator()))], [want])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_the_affinity_of_pool_threads_leaves_the_callers_core_and_nothing_else():
    output = run(
        """
        import os, time
        import numpy as np
        import masked_rnn.numpy as rnn

        cpus = os.sched_getaffinity(0)
        own = {int(t) for t in os.listdir("/proc/self/task")}
        inputs = np.zeros((64, 20, 8), "float32")
        weights = [np.zeros(s, "float32") for s in ((8, 192), (64, 192), (2, 192))]

        def call():
            time.sleep(0.01)  # a pool thread falls asleep, unless others keep it from its core
            rnn.gru(inputs, *weights)

        def call_until_the_worker_may_use(cores):
            for _ in range(1000):
                call()
                if os.sched_getaffinity(worker) == cores:
                    return
            raise AssertionError((os.sched_getaffinity(worker), cores))

        call()
        (worker,) = {int(t) for t in os.listdir("/proc/self/task")} - own
        assert os.sched_getaffinity(0) == cpus  # of the caller: as before

        first, second = sorted(cpus)[:2]
        for core in (first, second, first):
            os.sched_setaffinity(0, {core})
            call_until_the_worker_may_use(cpus - {core})
            assert os.sched_getaffinity(0) == {core}

        os.sched_setaffinity(worker, {first})  # as taskset does
        for core in (second, first):  # the second time, no core would be left
            os.sched_setaffinity(0, {core})
            call()
            assert os.sched_getaffinity(worker) == {first}
        print("done")
        """,
        MASKED_RNN_NUM_THREADS="2",
        OPENBLAS_NUM_THREADS="1",
    )
    assert output == "done\n"


NUMPY_CALLS = """
    import os, signal, sys, threading, time
    import numpy as np
    import masked_rnn.numpy

    rng = np.random.default_rng(0)

    def call_on(batch):
        x = rng.standard_normal((batch, 7, 16))
        arguments = [x, rng.standard_normal((16, 144)) / 9, rng.standard_normal((48, 144)) / 9]
        mask, d_outputs = rng.random((batch, 7)) < 0.5, rng.standard_normal((batch, 7, 48))

        def call():
            return masked_rnn.numpy.gru_vjp(*arguments, mask=mask, d_outputs=d_outputs)

        want = call()
        return lambda: all(
            a is b is None or a.tobytes() == b.tobytes() for a, b in zip(call(), want)
        )

    def threads_now():
        return len(os.listdir("/proc/self/task"))

    # Each says whether its numbers are right. The larger two use three threads.
    right = [call_on(batch) for batch in (1, 3, 24, 64)]
"""


def test_no_more_threads_than_asked_for_are_left():
    run(
        NUMPY_CALLS
        + """
    import subprocess
    count = "import os, numpy; print(len(os.listdir('/proc/self/task')))"
    alone = subprocess.run([sys.executable, "-c", count], capture_output=True, check=True)

    for _ in range(5):
        results = []
        def work():
            results.extend(r() for r in 5 * right)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert len(results) == 8 * 5 * len(right) and all(results)
        left = int(alone.stdout) + 2  # a thread that calls is the third
        patience = time.time() + 10
        while threads_now() != left and time.time() < patience:  # they are still ending
            time.sleep(0.01)
        assert threads_now() == left, (threads_now(), left)
    """,
        MASKED_RNN_NUM_THREADS="3",
    )


# --- forks -------------------------------------------------------------------------------------


def test_numpy_functions_in_children_of_a_process_that_computes():
    run(
        NUMPY_CALLS
        + """
    end = threading.Event()
    def work():
        while not end.is_set():
            assert all(r() for r in right)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads: thread.start()
    for i in range(100):
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # one that hangs is ended
            fine = all(r() for r in right) and threads_now() == 3
            os._exit(0 if fine else 1)
        assert os.waitpid(child, 0)[1] == 0, i
    end.set()
    for thread in threads: thread.join()
    """,
        MASKED_RNN_NUM_THREADS="3",
    )


def test_tensorflow_in_a_forked_child_is_an_error_that_names_spawn():
    output = run("""
    import multiprocessing, os, signal
    import numpy as np
    import keras, tensorflow as tf
    import masked_rnn

    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype("f")
    y = np.ones((4, 1), "f")
    weights = [np.ones(shape, "f") for shape in ((3, 6), (2, 6), (2, 6))]

    def model():
        made = keras.Sequential(
            [keras.Input((None, 3)), masked_rnn.GRU(8), keras.layers.Dense(1)]
        )
        made.compile("sgd", "mse")
        return made

    def in_child(what, job):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # one that hangs is ended
            try:
                job()
            except RuntimeError as error:
                print(what, 'get_context("spawn")' in str(error), flush=True)
            else:
                print(what, "works", flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, what

    in_child("before use", lambda: model().fit(x, y, verbose=0))

    layer, used, unused = masked_rnn.LSTM(2), model(), model()
    function = tf.function(lambda x: layer(x))
    want = masked_rnn.gru(x, *weights)
    layer(x), function(x)
    used.fit(x, y, verbose=0), used.predict(x, verbose=0)

    in_child("layer", lambda: layer(x))
    in_child("gru", lambda: masked_rnn.gru(x, *weights))
    in_child("dynamic_rnn", lambda: masked_rnn.dynamic_rnn(keras.layers.GRUCell(2), x))
    in_child("new function", lambda: tf.function(lambda x: layer(x))(x))
    in_child("fit", lambda: unused.fit(x, y, verbose=0))
    in_child("fit again", lambda: used.fit(x, y, verbose=0))
    in_child("predict again", lambda: used.predict(x, verbose=0))
    in_child("child of it", lambda: in_child("grandchild", lambda: layer(x)))
    in_child("numpy", lambda: masked_rnn.numpy.gru(x, *weights))

    used.fit(x, y, verbose=0)  # the parent goes on
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        got = pool.apply(masked_rnn.gru, (x, *weights))
    assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(got, want))
    """)
    assert output.splitlines() == [
        "before use works", "layer True", "gru True", "dynamic_rnn True", "new function True",
        "fit True", "fit again True", "predict again True", "grandchild True",
        "child of it works", "numpy works",
    ]  # fmt: skip


# --- interrupts and the end --------------------------------------------------------------------


def test_numpy_calls_that_are_interrupted_or_still_run_at_the_end():
    run(
        NUMPY_CALLS
        + """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    for _ in range(5):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            while True:
                assert all(r() for r in right)
        except KeyboardInterrupt:
            timer.join()
        assert all(r() for r in right)

    def work():
        while True:
            call()
    x, kernel = rng.standard_normal((32, 100, 16)), rng.standard_normal((16, 96))
    recurrent = rng.standard_normal((32, 96))
    call = lambda: masked_rnn.numpy.gru(x, kernel, recurrent)
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.1)
    """
    )


def test_fit_that_is_interrupted_goes_on_and_the_interpreter_ends_with_calls_in_flight():
    run("""
    import os, signal, threading, time
    import numpy as np
    import keras, tensorflow as tf
    import masked_rnn

    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 40, 8)).astype("f")
    y = rng.standard_normal((64, 1)).astype("f")
    mask = rng.random((64, 40)) < 0.5
    x[~mask] = 0

    def model(kind):
        made = keras.Sequential(
            [keras.Input((None, 8)), keras.layers.Masking(), kind(32), keras.layers.Dense(1)]
        )
        made.compile(keras.optimizers.SGD(0.1), "mse")
        return made

    def train(made, epochs=2):
        made.fit(x, y, epochs=epochs, shuffle=False, verbose=0)
        return made.get_weights()

    ours, theirs = model(masked_rnn.GRU), model(keras.layers.GRU)
    start = ours.get_weights()
    theirs.set_weights(start)
    first = train(ours)
    for a, b in zip(first, train(theirs)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    for _ in range(3):
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            train(ours, 10**9)
            raise AssertionError
        except KeyboardInterrupt:
            timer.join()
        assert all(np.isfinite(w).all() for w in ours.get_weights())
    threads = len(os.listdir("/proc/self/task"))
    ours.set_weights(start)
    for a, b in zip(train(ours), first):
        assert a.tobytes() == b.tobytes()
    assert len(os.listdir("/proc/self/task")) <= threads

    layer = ours.layers[1]
    call = tf.function(layer)
    def eager():
        while True: layer(x, mask=mask)
    def traced():
        while True: call(x)
    for work in (eager, traced, eager):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(1)
    """)
