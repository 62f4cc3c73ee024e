"""The same bits again: in a process, from one process to the next, and with other numbers of
threads."""

import pytest

from .programs import run

# Prints what must not change: a line for every training, and one for every set of outputs.
PROGRAM = """
    import hashlib, os
    import numpy as np
    import keras, tensorflow as tf
    import masked_rnn

    tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["INTRA_OP_THREADS"]))
    tf.config.threading.set_inter_op_parallelism_threads(int(os.environ["INTER_OP_THREADS"]))
    tf.config.experimental.enable_op_determinism()

    def digest(values):
        return hashlib.sha256(b"".join(np.asarray(v).tobytes() for v in values)).hexdigest()

    def trained():
        keras.utils.set_random_seed(7)
        words = np.random.randint(0, 20, (48, 23))  # 0 is masked
        y = np.random.standard_normal((48, 3)).astype("f")
        model = keras.Sequential([
            keras.layers.Embedding(20, 8, mask_zero=True),
            masked_rnn.GRU(24, dropout=0.2, recurrent_dropout=0.3, return_sequences=True),
            masked_rnn.LSTM(10, dropout=0.1, recurrent_dropout=0.2),
            keras.layers.Dense(3),
        ])
        model.compile("adam", "mse")
        losses = model.fit(words, y, batch_size=16, epochs=3, verbose=0).history["loss"]
        return digest([*model.get_weights(), *losses])

    for _ in range(int(os.environ["TRAININGS"])):
        print("training", trained())

    # Small batches are shared out by units, large ones by rows.
    rng = np.random.default_rng(0)
    for batch, time, features, units in ((1, 30, 5, 129), (5, 9, 33, 64), (130, 12, 7, 20)):
        x = rng.standard_normal((batch, time, features)).astype("f")
        mask = rng.random((batch, time)) < 0.7
        for layer in (masked_rnn.GRU, masked_rnn.LSTM):
            made = layer(units, return_sequences=True, return_state=True)
            made.build(x.shape)
            made.set_weights([rng.standard_normal(w.shape) / 4 for w in made.get_weights()])
            for call in (made, tf.function(made)):
                print(layer.__name__, batch, digest(call(x, mask=mask)))
"""


def printed(trainings, intra_op=2, inter_op=2):
    return run(
        PROGRAM, TRAININGS=str(trainings), INTRA_OP_THREADS=str(intra_op),
        INTER_OP_THREADS=str(inter_op),
    ).splitlines()  # fmt: skip


@pytest.fixture(scope="module")
def first_run():
    return printed(trainings=2)


def test_training_repeats_bitwise_in_a_process_and_in_the_next(first_run):
    assert first_run[0] == first_run[1]
    assert printed(trainings=1) == first_run[1:]


def test_outputs_are_the_same_bits_with_other_numbers_of_tensorflows_threads(first_run):
    outputs = first_run[2:]
    assert len(outputs) == 12 and outputs[::2] == outputs[1::2]  # eager and traced
    assert printed(0, intra_op=1, inter_op=1) == outputs


NUMPY_PROGRAM = """
    import hashlib, os
    cpus = os.environ.get("CPUS")
    if cpus:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cpus)])
    import numpy as np
    import masked_rnn.numpy

    rng = np.random.default_rng(0)
    for batch, time, features, units in ((1, 30, 5, 129), (5, 9, 33, 64), (130, 12, 7, 20)):
        x, *weights = [
            rng.standard_normal(shape).astype("f") / 2
            for shape in ((batch, time, features), (features, 4 * units), (units, 4 * units))
        ]
        mask = rng.random((batch, time)) < 0.7
        outputs, (h, c) = masked_rnn.numpy.lstm(x, *weights, mask=mask)
        d_inputs = masked_rnn.numpy.lstm_vjp(x, *weights, mask=mask, d_outputs=outputs).inputs
        rows = b"".join(a.tobytes() for a in (outputs, h, c, d_inputs))
        print(masked_rnn._core.threads(), hashlib.sha256(rows).hexdigest())
"""


def test_numpys_rows_are_the_same_bits_with_any_number_of_threads():
    digests = set()
    for threads in ("1", "2", "3", "16"):
        lines = run(NUMPY_PROGRAM, MASKED_RNN_NUM_THREADS=threads).splitlines()
        assert all(line.split()[0] == threads for line in lines)
        digests.add(tuple(line.split()[1] for line in lines))
    lines = run(NUMPY_PROGRAM, MASKED_RNN_NUM_THREADS=None, CPUS="1").splitlines()
    assert all(line.split()[0] == "1" for line in lines)
    digests.add(tuple(line.split()[1] for line in lines))
    assert len(digests) == 1
