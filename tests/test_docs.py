"""What the documents show runs: docs/migration.md block by block, and the docstrings' examples."""

import doctest
import importlib
import pathlib
import pkgutil
import re
import shlex

import pytest

import masked_rnn
from masked_rnn import __main__ as commands

from .pairs import keras

DOCS = pathlib.Path(__file__).parent.parent / "docs"
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Converting sparse IndexedSlices:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# These need packages or take time that the tests do without.
NOT_IMPORTED = ("demo", "__main__")


def test_migration(tmp_path, monkeypatch, capsys):
    """In one go, as a reader would; blocks of another system are marked after the language."""
    monkeypatch.chdir(tmp_path)
    namespace, ran = {"__name__": "migration"}, {"python": 0, "sh": 0}
    text = (DOCS / "migration.md").read_text()
    for match in BLOCK.finditer(text):
        language, code = match.groups()
        line = text[: match.start()].count("\n") + 2
        if language == "python":
            exec(compile("\n" * (line - 1) + code, "docs/migration.md", "exec"), namespace)
        elif language == "sh":
            program, *arguments = shlex.split(code)
            assert program == "python" and arguments[:2] == ["-m", "masked_rnn"]
            assert commands.main(arguments[2:]) == 0
        ran[language] = ran.get(language, 0) + 1
    assert ran["python"] > 15 and ran["sh"] == 1
    assert "masked_rnn.GRU" in capsys.readouterr().out  # what accelerate and try print


MODULES = [
    module.name
    for module in pkgutil.iter_modules(masked_rnn.__path__)
    if module.name not in NOT_IMPORTED and not module.name.startswith(("_core", "lib"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    keras.utils.clear_session(free_memory=False)  # names count from the start
    module = importlib.import_module(f"masked_rnn.{name}")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, optionflags=flags).failed == 0


def test_public_names_have_docstrings():
    for name in masked_rnn.__all__:
        if name != "__version__":
            assert getattr(masked_rnn, name).__doc__, name
