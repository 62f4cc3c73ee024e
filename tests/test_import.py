"""What importing does and does not: lazy names, registration in any order, and what a name that
cannot be had says. Each in a process of its own."""

import os
import textwrap

import pytest

import masked_rnn

from .programs import run

# Prints the message of the ImportError that a name raises.
MESSAGE = """
    import masked_rnn
    for name in ("GRU", "LSTM", "gru", "lstm"):
        try:
            getattr(masked_rnn, name)
        except ImportError as error:
            print(name, error)
        else:
            raise AssertionError(name)
"""


def check_message(output, *words):
    lines = output.strip().splitlines()
    assert [line.split()[0] for line in lines] == ["GRU", "LSTM", "gru", "lstm"]
    for line in lines:
        assert all(word in line for word in words), line


def test_importing_imports_nothing_heavy():
    run("""
        import sys
        import masked_rnn
        assert not {"tensorflow", "keras", "numpy"} & set(sys.modules)
        assert masked_rnn.__version__ == "0.1.0"
        assert {"GRU", "LSTM", "gru", "lstm", "explain", "numpy"} <= set(dir(masked_rnn))
        assert issubclass(masked_rnn.FallbackWarning, UserWarning)
        masked_rnn.explain
        assert not {"tensorflow", "keras"} & set(sys.modules)
        import masked_rnn.numpy
        assert masked_rnn.numpy.gru and not {"tensorflow", "keras"} & set(sys.modules)
        try:
            masked_rnn.nonsense
        except AttributeError as error:
            assert "nonsense" in str(error)
    """)


def test_numpy_works_without_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('not installed')")
    run(
        """
        import numpy as np, masked_rnn.numpy as m
        outputs, state = m.gru(np.ones((1, 2, 3)), np.ones((3, 6)), np.ones((2, 6)))
        assert outputs.shape == (1, 2, 2)
        import masked_rnn
        assert not hasattr(masked_rnn, "nonsense")
        """,
        tmp_path,
    )


REGISTERED = """
    import keras, tensorflow as tf
    assert keras.saving.get_registered_object("masked_rnn>GRU") is not None
    assert keras.saving.get_registered_object("masked_rnn>LSTM") is not None
    assert keras.saving.get_registered_object("masked_rnn>SequenceMask") is not None
    from tensorflow.python.framework import op_def_registry
    assert op_def_registry.get("MaskedRnn") is not None
    tf.raw_ops
    from tensorflow.python.framework import ops
    assert ops.gradient_registry.lookup("MaskedRnn") is not None
    assert masked_rnn.GRU is keras.saving.get_registered_object("masked_rnn>GRU")
    import sys
    assert not [f for f in sys.meta_path if type(f).__module__.startswith("masked_rnn")]
    for module in (tf, keras):
        assert "exec_module" not in vars(module.__spec__.loader)
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import masked_rnn, tensorflow",
        "import masked_rnn, keras",
        "import tensorflow, masked_rnn",
        "import importlib.util as u; import masked_rnn; u.find_spec('tensorflow'); import keras",
        "import masked_rnn; masked_rnn.GRU",
    ],
)
def test_registered_in_any_order(imports):
    run(imports + textwrap.dedent(REGISTERED))


def test_no_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('No module named tensorflow')")
    check_message(run(MESSAGE, tmp_path), "TensorFlow", "2.16", "pip install", "masked_rnn[cpu]")


@pytest.mark.parametrize("version", ["2.15.1", "1.15.0", "2.9"])
def test_old_tensorflow(tmp_path, version):
    (tmp_path / "tensorflow.py").write_text(f"__version__ = '{version}'")
    check_message(run(MESSAGE, tmp_path), version, "2.16", "pip install --upgrade")
    run("import masked_rnn, tensorflow", tmp_path)


@pytest.mark.parametrize("imported", ["", "import keras"])
def test_other_backend(tmp_path, imported):
    (tmp_path / "jax.py").write_text("")
    # A Keras with another backend, without that backend: only what we look at.
    if imported:
        (tmp_path / "keras.py").write_text(
            "__version__ = '3.9.0'\nclass config:\n  backend = staticmethod(lambda: 'jax')"
        )
    output = run(imported + textwrap.dedent(MESSAGE), tmp_path, KERAS_BACKEND="jax")
    check_message(output, "KERAS_BACKEND=tensorflow", "jax")


def test_old_keras(tmp_path):
    (tmp_path / "tensorflow.py").write_text("__version__ = '2.16.1'")
    (tmp_path / "keras.py").write_text("__version__ = '2.15.0'")
    check_message(run(MESSAGE, tmp_path), "Keras", "2.15.0", "pip install --upgrade keras")


@pytest.mark.parametrize("library", ["/nowhere/lib.so", "{folder}/broken.so"])
def test_library_that_cannot_be_loaded(tmp_path, library):
    (tmp_path / "broken.so").write_text("no library")
    library = library.format(folder=tmp_path)
    # Importing succeeds: nobody has asked for a name yet, so nobody is told.
    imports = "import masked_rnn.numpy, tensorflow, keras"
    output = run(imports + textwrap.dedent(MESSAGE), MASKED_RNN_LIBRARY=library)
    check_message(output, library, "MASKED_RNN_LIBRARY")


def test_library_elsewhere(tmp_path):
    source = os.path.join(os.path.dirname(masked_rnn.__file__), "libmasked_rnn_tf.so")
    for name in os.listdir(os.path.dirname(source)):
        if name.endswith(".so"):
            os.link(os.path.join(os.path.dirname(source), name), tmp_path / name)
    library = str(tmp_path / "libmasked_rnn_tf.so")
    run(
        """
        import masked_rnn
        masked_rnn.GRU(2)
        assert masked_rnn.library.os.environ["MASKED_RNN_LIBRARY"] in open("/proc/self/maps").read()
        """,
        MASKED_RNN_LIBRARY=library,
    )


def test_a_failing_import_leaves_nothing_behind(tmp_path):
    (tmp_path / "keras.py").write_text("raise RuntimeError('broken keras')")
    run(
        """
        import masked_rnn
        for _ in range(2):
            try:
                import keras
            except RuntimeError as error:
                assert "broken" in str(error)
            else:
                raise AssertionError
        """,
        tmp_path,
    )


def test_types_are_published():
    folder = os.path.dirname(masked_rnn.__file__)
    assert os.path.exists(os.path.join(folder, "py.typed"))
    assert set(masked_rnn.__all__) <= set(dir(masked_rnn))
