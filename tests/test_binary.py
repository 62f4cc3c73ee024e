"""What the built libraries are made of: symbols, needed libraries, the C API as declared; and that
they load and write nothing outside of the package. Of an installed wheel too."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest
from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_DT_FLAGS

import masked_rnn

PACKAGE = Path(masked_rnn.__file__).parent
CSRC = Path(__file__).parents[1] / "csrc"
LIBRARIES = {
    name: next(PACKAGE.glob(f"{name}*.so"), None)
    for name in ("_core", "libmasked_rnn_core", "libmasked_rnn_tf")
}
# C's and C++'s own; some are empty on newer systems.
OF_EVERY_SYSTEM = re.compile(r"(lib(c|m|dl|pthread|stdc\+\+|gcc_s)|ld-linux[\w-]*)\.so\.\d")
OF_OTHERS = {
    "_core": {"libmasked_rnn_core.so"},
    "libmasked_rnn_core": set(),
    "libmasked_rnn_tf": {"libmasked_rnn_core.so", "libtensorflow_framework.so.2"},
}
every_library = pytest.mark.parametrize("name", LIBRARIES)


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def elf(name):
    with LIBRARIES[name].open("rb") as file:
        yield ELFFile(file)


def entries(elf, tag):
    return [e for e in elf.get_section_by_name(".dynamic").iter_tags() if e.entry.d_tag == tag]


@every_library
def test_library_needs_those_beside_it_and_none_of_the_machine_that_built_it(name, elf):
    needed = {entry.needed for entry in entries(elf, "DT_NEEDED")}
    assert {n for n in needed if not OF_EVERY_SYSTEM.fullmatch(n)} == OF_OTHERS[name]
    assert not entries(elf, "DT_RPATH")
    assert [entry.runpath for entry in entries(elf, "DT_RUNPATH")] == ["$ORIGIN"]
    assert not re.search(rb"/[\w./-]+/(csrc|build)/", LIBRARIES[name].read_bytes())


@every_library
def test_library_is_hardened(elf):
    segments = {segment["p_type"]: segment for segment in elf.iter_segments()}
    assert "PT_GNU_RELRO" in segments
    (flags,) = entries(elf, "DT_FLAGS")
    assert flags["d_val"] & ENUM_DT_FLAGS["DF_BIND_NOW"]  # and so all of it is read-only
    assert not segments["PT_GNU_STACK"]["p_flags"] & P_FLAGS.PF_X
    writable = P_FLAGS.PF_W | P_FLAGS.PF_X
    assert all(s["p_flags"] & writable != writable for s in elf.iter_segments())
    assert not entries(elf, "DT_TEXTREL")


def test_installed_files_lie_in_the_package():
    found = metadata.distributions(name="masked_rnn", path=[str(PACKAGE.parent)])
    installed = next((d for d in found if d.read_text("RECORD")), None)
    if installed is None:
        pytest.skip("the package is used from the folder where it is built")
    folders = {file.parts[0] for file in installed.files}
    assert folders == {"masked_rnn", f"masked_rnn-{masked_rnn.__version__}.dist-info"}


USE_EVERYTHING = """
    import sys
    import numpy as np, tensorflow as tf, keras

    def mapped():
        with open("/proc/self/maps") as maps:
            return {line.split()[-1] for line in maps if ".so" in line}

    def use(layer):  # both directions, in a graph
        x = tf.Variable(np.ones((2, 3, 4), "float32"))
        layer.build(x.shape)

        @tf.function
        def gradient():
            with tf.GradientTape() as tape:
                y = layer(x, mask=tf.constant([[True, False, True]] * 2))
            return tape.gradient(y, x)

        assert np.isfinite(gradient()).all()

    use(keras.layers.GRU(5))
    before = mapped()
    import masked_rnn, masked_rnn.__main__
    for name in masked_rnn.__all__:
        getattr(masked_rnn, name)
    for kind in (masked_rnn.GRU, masked_rnn.LSTM, masked_rnn.SimpleRNN):
        use(kind(5))
    x, kernel, recurrent = np.ones((2, 3, 4)), np.ones((4, 15)), np.ones((5, 15))
    masked_rnn.numpy.gru(x, kernel, recurrent)
    masked_rnn.__main__.main(["info"])
    print(*sorted(mapped() - before), sep="\\n", file=sys.stderr)
"""


def test_nothing_outside_of_the_package_is_loaded_or_written(tmp_path):
    folders = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "tmp", "PWD": tmp_path / "cwd"}
    for folder in folders.values():
        folder.mkdir()
    environment = {
        **{n: v for n, v in os.environ.items() if not n.startswith(("XDG_", "MASKED_RNN_"))},
        **{name: str(folder) for name, folder in folders.items()},
        "CUDA_VISIBLE_DEVICES": "",  # kernels for a GPU are kept in a cache
        "KERAS_HOME": str(tmp_path / "keras"),  # Keras writes its settings,
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),  # and imports what writes a list of fonts
        "PYTHONPATH": str(PACKAGE.parent),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(USE_EVERYTHING)],
        env=environment, cwd=folders["PWD"], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = {Path(line) for line in done.stderr.splitlines() if line.startswith("/")}
    assert loaded == set(LIBRARIES.values())
    assert [file for folder in folders.values() for file in folder.rglob("*")] == []


def test_core_includes_no_framework_header():
    for path in (CSRC / "core").rglob("*.*"):
        for header in re.findall(r"#include [<\"](.*)[>\"]", path.read_text()):
            assert not re.match(r"(tensorflow|Python|pybind11)", header), f"{path}: {header}"


def _types(declaration):
    """A C declaration's parameter types: comments, qualifiers of the API and names left out."""
    inner = declaration[declaration.index("(") + 1 : declaration.rindex(")")]
    parts, depth, start = [], 0, 0
    for i, c in enumerate(inner + ","):
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append(inner[start:i])
            start = i + 1
    types = []
    for part in parts:
        if "(*" in part:  # a function pointer: result and parameter types
            result, rest = part.split("(*", 1)
            rest = rest[rest.index("(") :]
            types.append(result.strip() + "*" + str(_types(rest)))
            continue
        words = re.sub(r"\b(struct|extern|const)\b", "", part).replace("*", " * ").split()
        kinds = [w for w in words if w != "*"]
        if len(kinds) > 1 and kinds[:2] != ["unsigned", "char"]:
            words.remove(kinds[-1])  # the parameter's name
        elif kinds[:2] == ["unsigned", "char"] and len(kinds) > 2:
            words.remove(kinds[-1])
        text = " ".join(words).replace("TF_Bool", "unsigned char")
        if text not in ("", "void"):
            types.append(text)
    return types


def _declarations(text, name):
    text = re.sub(r"//[^\n]*", "", text)
    return [m.group(1) for m in re.finditer(rf"\b{name}(\([^;{{}}]*\));", text)]


def test_declared_c_api_is_that_of_the_installed_tensorflow():
    tf = pytest.importorskip("tensorflow")
    headers = Path(tf.sysconfig.get_include(), "tensorflow", "c")
    theirs = "\n".join(
        (headers / name).read_text()
        for name in ("ops.h", "kernels.h", "tf_tensor.h", "tf_status.h", "tf_buffer.h")
    )
    ours = (CSRC / "tensorflow" / "c_api.h").read_text()
    names = re.findall(r"STUB\((\w+)\)", (CSRC / "tensorflow/c_api_functions.inc").read_text())
    assert len(names) > 30
    for name in names:
        mine, found = _declarations(ours, name), _declarations(theirs, name)
        assert len(mine) == 1 and found, name
        assert _types(mine[0]) in [_types(f) for f in found], name
    # Every function that is declared is in the list to link against.
    assert sorted(set(re.findall(r"\b(TF_\w+)\(", re.sub(r"//[^\n]*", "", ours)))) == sorted(names)


def test_numbers_of_types_and_codes_are_those_of_the_installed_tensorflow():
    tf = pytest.importorskip("tensorflow")
    headers = Path(tf.sysconfig.get_include())
    text = (headers / "tensorflow/c/tf_datatype.h").read_text()
    status = [
        path.read_text() for path in headers.rglob("tsl_status.h") if "/c/" in path.as_posix()
    ]
    ours = (CSRC / "tensorflow" / "c_api.h").read_text()
    for name, value in re.findall(r"(TF_[A-Z0-9_]+) = (\d+)", ours):
        found = re.findall(rf"\b{name} = (\d+)", text)
        if not found:
            tsl = name.replace("TF_", "TSL_", 1)
            found = [v for s in status for v in re.findall(rf"\b{tsl} = (\d+)", s)]
        assert value in found, name


@pytest.mark.skipif(
    not shutil.which("nm") or not os.environ.get("MASKED_RNN_BUILD"),
    reason="MASKED_RNN_BUILD does not name a build folder with object files",
)
def test_isa_objects_define_their_table_and_nothing_else():
    objects = [
        path
        for path in Path(os.environ["MASKED_RNN_BUILD"]).rglob("kernels.cc.o")
        if re.search(r"(generic|neon|avx2|avx512)_(float|double)", path.as_posix())
    ]
    assert objects
    for path in objects:
        symbols = output_of("nm", "--defined-only", "--extern-only", "-C", path).split("\n")
        defined = [line.split(" ", 2)[2] for line in symbols if line]
        assert len(defined) == 1 and defined[0].startswith("masked_rnn::kernels_"), defined
