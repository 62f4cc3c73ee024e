"""`python -m masked_rnn info` and `try`: what they print, and their exit codes."""

import json
import os
import subprocess
import sys

import pytest

from masked_rnn import __main__ as commands

from .pairs import keras, masked_rnn

L = keras.layers
F = 3
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning"),
]


def saved(model, folder, suffix="keras"):
    path = str(folder / f"model.{suffix}")
    model.save(path)
    return path


def floats():
    return keras.Sequential(
        [
            keras.Input((None, F), name="frames"),
            L.Masking(),
            L.Bidirectional(L.LSTM(4, return_sequences=True, name="inner"), name="both"),
            L.GRU(3, activation="softmax", return_sequences=True, name="custom"),
            L.RNN(L.GRUCell(2), name="loop"),
            L.Dense(2),
        ],
        name="model",
    )


def words():
    first = keras.Input((None,), dtype="int32", name="words")
    second = keras.Input((5,), name="other")
    embedded = L.Embedding(11, 4, mask_zero=True)(first)
    joined = L.Concatenate()([L.GRU(3)(embedded), second])
    return keras.Model({"words": first, "other": second}, [L.Dense(1)(joined), joined])


def run(capsys, *arguments):
    code = commands.main([str(a) for a in arguments])
    return code, capsys.readouterr().out


@pytest.fixture
def small():
    return ("--batch", 3, "--time", 5, "--rounds", 1)


def test_try_prints_a_table(capsys, tmp_path, small):
    code, out = run(capsys, "try", saved(floats(), tmp_path), *small)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert all(word in out for word in ("layer", "path", "before", "after", "ratio", "agree"))
    for name in ("both/forward_inner", "both/backward_inner", "loop"):
        line = lines[f"model/{name}"]
        assert "fused" in line and line.count(" ms") == 2 and line.endswith("x")
    assert "Keras loop" in out and "softmax is custom" in out


@pytest.mark.parametrize("make, suffix", [(floats, "keras"), (words, "keras"), (floats, "h5")])
def test_try_for_machines(capsys, tmp_path, small, make, suffix):
    code, out = run(capsys, "try", saved(make(), tmp_path, suffix), *small, "--json")
    found = json.loads(out)
    assert code == 0 and found["agree"] is True
    assert found["outputs_difference"] <= found["allowed_difference"]
    assert {row["path"] for row in found["layers"]} >= {"fused"}
    assert all(found[k]["ratio"] > 0 for k in ("forward", "forward_and_backward"))


def test_try_changes_no_file_and_says_when_there_is_nothing_to_do(capsys, tmp_path, small):
    model = keras.Sequential([keras.Input((4, F)), masked_rnn.GRU(2), L.Dense(1)])
    path = saved(model, tmp_path)
    with open(path, "rb") as file:
        before = file.read()
    code, out = run(capsys, "try", path, *small)
    assert code == 0 and "already ours" in out
    with open(path, "rb") as file:
        assert file.read() == before
    code, out = run(
        capsys, "try", saved(keras.Sequential([keras.Input((3,)), L.Dense(1)]), tmp_path), *small
    )
    assert code == 0 and "nothing to replace" in out


def test_try_fails_where_numbers_differ(capsys, tmp_path, small, monkeypatch):
    from masked_rnn import trial

    monkeypatch.setattr(trial, "_differences", lambda *_: (0.0, 1.0))
    code, out = run(capsys, "try", saved(words(), tmp_path), *small)
    assert code == 1 and "DO NOT AGREE" in out


def test_try_of_what_cannot_be_loaded(capsys, tmp_path, small):
    assert commands.main(["try", str(tmp_path / "no.keras"), "--json"]) == 2
    captured = capsys.readouterr()
    assert "error" in json.loads(captured.out) and "no.keras" in captured.err
    path = saved(floats(), tmp_path)
    assert run(capsys, "try", path, *small, "--import", "no_such_module_anywhere")[0] == 2
    for wrong in ([], ["try"], ["try", path, "--batch", "0"], ["try", path, "--time", "x"], ["go"]):
        with pytest.raises(SystemExit) as exit_:
            commands.main(wrong)
        assert exit_.value.code == 2


def test_try_with_classes_of_the_users_own(tmp_path):
    (tmp_path / "my_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Net(keras.Model):\n"
        "    def __init__(self, **kw):\n"
        "        super().__init__(**kw)\n"
        "        self.rnn = keras.layers.GRU(2, name='rnn')\n"
        "    def call(self, x):\n"
        "        return self.rnn(x)\n"
        "if __name__ == '__main__':\n"
        "    net = Net(name='net')\n"
        "    net(keras.ops.ones((2, 4, 3)))\n"
        "    import my_layers\n"
        "    net = my_layers.Net(name='net')\n"
        "    net(keras.ops.ones((2, 4, 3)))\n"
        "    net.save('net.keras')\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    folder = os.path.dirname(os.path.dirname(os.path.abspath(masked_rnn.__file__)))
    environment["PYTHONPATH"] = os.pathsep.join([folder, str(tmp_path)])

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True,
            text=True,
        )  # fmt: skip

    made = python("my_layers.py")
    assert made.returncode == 0, made.stderr
    command = ("-m", "masked_rnn", "try", "net.keras", "--rounds", "1", "--json")
    done = python(*command, "--import", "my_layers")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layers"][0]["times"]["ratio"] > 0


def test_info(capsys):
    code, out = run(capsys, "info")
    assert code == 0 and masked_rnn.__version__ in out and "can be used" in out
    code, out = run(capsys, "info", "--json")
    found = json.loads(out)
    assert code == 0 and found["usable"] is True
    assert found["core"]["threads"] >= 1 and found["core"]["isa"]
    assert os.path.exists(found["library"]["path"]) and isinstance(found["gpu"]["devices"], list)
    assert {"numpy", "tensorflow", "keras", "cache"} <= set(found)


def test_info_where_the_layers_cannot_be_used():
    environment = {**os.environ, "MASKED_RNN_LIBRARY": "/no/such/file.so"}
    folder = os.path.dirname(os.path.dirname(os.path.abspath(masked_rnn.__file__)))
    environment["PYTHONPATH"] = folder
    done = subprocess.run(
        [sys.executable, "-m", "masked_rnn", "info", "--json"], env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["usable"] is False and "MASKED_RNN_LIBRARY" in found["library"]["error"]
