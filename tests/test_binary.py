"""What the built libraries are made of: symbols, needed libraries, the C API as declared."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import masked_rnn

PACKAGE = Path(masked_rnn.__file__).parent
CSRC = Path(__file__).parents[1] / "csrc"
needs_readelf = pytest.mark.skipif(not shutil.which("readelf"), reason="binutils is not installed")


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_readelf
@pytest.mark.parametrize("library", sorted(PACKAGE.glob("*.so")), ids=lambda p: p.name)
def test_library_finds_others_beside_it_and_is_hardened(library):
    dynamic = output_of("readelf", "-dW", library)
    assert re.findall(r"R(?:UN)?PATH.*\[(.*)\]", dynamic) in ([], ["$ORIGIN"])
    assert "BIND_NOW" in dynamic or "NOW" in dynamic
    segments = output_of("readelf", "-lW", library)
    assert "GNU_RELRO" in segments
    stack = next(line for line in segments.splitlines() if "GNU_STACK" in line)
    assert "RWE" not in stack


@needs_readelf
def test_only_the_ops_need_tensorflow():
    needing = {
        library.name
        for library in PACKAGE.glob("*.so")
        if "tensorflow" in output_of("readelf", "-dW", library)
    }
    assert needing == {"libmasked_rnn_tf.so"}


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
