"""SavedModels of swapped models, in new processes: with this package imported, and without."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from .pairs import keras, masked_rnn, shake, tf

L = keras.layers
T, F = 5, 3
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def make_x():
    x = np.random.default_rng(0).standard_normal((4, T, F)).astype("float32")
    x[np.random.default_rng(1).random((4, T)) < 0.4] = 0.0
    return x


def make_model():
    model = keras.Sequential(
        [
            keras.Input((None, F)),
            L.Masking(),
            L.RNN([L.GRUCell(3), L.LSTMCell(4)], return_sequences=True),
            L.Bidirectional(L.SimpleRNN(3, return_sequences=True)),
            L.GRU(2),
        ]
    )
    return masked_rnn.accelerate(shake(model))


def run(code, *arguments):
    """Runs code in a new process; what it returns is subprocess's."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    folder = os.path.dirname(os.path.dirname(os.path.abspath(masked_rnn.__file__)))
    environment["PYTHONPATH"] = folder
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip


LOAD = """
    import sys
    {imports}
    import numpy as np
    import tensorflow as tf

    x, want = (np.load(path) for path in sys.argv[3:])
    exported, saved = (tf.saved_model.load(path) for path in sys.argv[1:3])
    np.testing.assert_allclose(exported.serve(x), want, atol=1e-6)
    np.testing.assert_allclose(exported.signatures["serving_default"](tf.constant(x))["output_0"],
                               want, atol=1e-6)
    np.testing.assert_allclose(saved(x), want, atol=1e-6)
"""


def test_export_and_saved_model(tmp_path):
    model, x = make_model(), make_x()
    model.export(tmp_path / "exported", verbose=False)
    module = tf.Module()
    module.model = model
    call = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec([None, None, F])])
    module.__call__ = call
    tf.saved_model.save(module, tmp_path / "saved", signatures=call)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model(x))
    files = [tmp_path / name for name in ("exported", "saved", "x.npy", "y.npy")]

    done = run(LOAD.format(imports="import masked_rnn"), *files)
    assert done.returncode == 0, done.stderr[-3000:]
    without = run(LOAD.format(imports=""), *files)
    assert without.returncode != 0
    assert "Op type not registered 'MaskedRnn" in without.stderr  # as docs/migration.md says

    masked_rnn.to_keras(model).export(tmp_path / "exported", verbose=False)
    code = LOAD.replace("exported, saved = (", "exported, = (").replace("[1:3])", "[1:2])")
    code = code.replace("    np.testing.assert_allclose(saved(x), want, atol=1e-6)\n", "")
    plain = run(code.format(imports=""), *files)
    assert plain.returncode == 0, plain.stderr[-3000:]


def test_keras_file_without_the_import(tmp_path):
    make_model().save(tmp_path / "m.keras")
    code = "import sys, keras; keras.models.load_model(sys.argv[1])"
    without = run(code, tmp_path / "m.keras")
    assert without.returncode != 0 and "Could not locate class" in without.stderr
