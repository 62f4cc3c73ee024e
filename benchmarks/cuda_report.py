"""Registers, shared memory, spills and matrix instructions of every CUDA kernel, by architecture.

    make cuda-check && python benchmarks/cuda_report.py            a line for each kernel template
    python benchmarks/cuda_report.py --every-instance
    python benchmarks/cuda_report.py --names sm_90a

Reads what nvcc's assembler reported (build/cusim/cuda/sm_*.txt) and the machine code beside it. No
GPU is needed; machine code needs `pip install nvidia-cuda-nvdisasm`. Numbers are the largest among a
template's instances. Shared memory is what is fixed when a kernel is compiled: kernels that take
theirs when they are launched show none. Exit status 1 where a kernel moves registers to memory, or
one that should multiply by matrix instructions has none.
"""

import argparse
import dataclasses
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path


FOLDER = Path(__file__).resolve().parents[1] / "build/cusim/cuda"
MATRIX = re.compile("ward_cluster$|_matrix$")
# Instructions that are counted: products of matrices, local memory, stores to other blocks.
INSTRUCTIONS = {
    "matrix": re.compile(r"^(HMMA|IMMA|DMMA|BMMA|QMMA|OMMA|[HIQ]GMMA|UTC\w*MMA)\b"),
    "local": re.compile(r"^(LDL|STL)\b"),
    "async": re.compile(r"^(STAS|UBLKCP|LDGSTS|UTMA\w*)\b"),
}


@dataclasses.dataclass
class Code:
    """What an instance, or a function that instances call, needs on one architecture."""

    name: str  # as in C++, with its template's arguments
    is_kernel: bool = False
    registers: int = 0
    shared: int = 0  # bytes
    stack: int = 0
    spilled: int = 0  # bytes stored and loaded
    counts: dict = dataclasses.field(default_factory=dict)  # by INSTRUCTIONS, empty: unknown

    @property
    def template(self):
        return self.name.split("<")[0]


def read_report(path):
    """{mangled name: `Code`} from `ptxas -v`."""
    found, entries, current = {}, set(), None
    for line in path.read_text().splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            entries.add(match[1])
        elif match := re.search(r"Function properties for (\w+)", line):
            current = found.setdefault(match[1], Code(match[1]))
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) b", line):
            current.stack = int(match[1])
            current.spilled = int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers", line):
            current.registers = int(match[1])
            shared = re.search(r"(\d+) bytes smem", line)
            current.shared = int(shared[1]) if shared else 0
    for name in entries:
        found[name].is_kernel = True
    return found


def count_instructions(cubin, codes, disassembler):
    """Enters the numbers of INSTRUCTIONS in the machine code."""
    text = subprocess.run(
        [disassembler, "-c", cubin], check=True, capture_output=True, text=True
    ).stdout
    counts = None
    for line in text.splitlines():
        if line.startswith("\t.section\t"):
            section = re.match(r"\t\.section\t\.text\.(\w+),", line)
            code = codes.get(section[1]) if section else None
            counts = dict.fromkeys(INSTRUCTIONS, 0) if code else None
            if code:
                code.counts = counts
        elif counts is not None and (
            match := re.match(r"\s*/\*\w+\*/\s+(?:@!?U?P\w+ )?(\w[\w.]*)", line)
        ):
            for name, pattern in INSTRUCTIONS.items():
                counts[name] += bool(pattern.match(match[1]))


def readable(mangled):
    """{mangled name: name without namespaces and parameters}"""
    names = list(mangled)
    plain = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True
    ).stdout.splitlines()
    found = {}
    for name, text in zip(names, plain):
        text = re.sub(r"(\w+::)+", "", text.split("(")[0])
        found[name] = re.sub(r"^[\w ]+ (?=\w+(<|$))", "", text)
    return found


def find_disassembler():
    """nvdisasm: on the path, or where its package lies; None."""
    for folder in site.getsitepackages():
        for path in sorted(Path(folder).glob("nvidia/*/bin/nvdisasm")):
            return str(path)
    return shutil.which("nvdisasm")


def read(folder, disassembler):
    """{architecture: [`Code`]}; without a disassembler nothing is known of the machine code."""
    found = {}
    for report in sorted(folder.glob("sm_*.txt"), key=lambda p: int(re.search(r"\d+", p.stem)[0])):
        codes = read_report(report)
        if disassembler:
            count_instructions(report.with_suffix(".cubin"), codes, disassembler)
        names = readable(codes)
        for mangled, code in codes.items():
            code.name = names[mangled]
        found[report.stem] = list(codes.values())
    return found


def rows(codes, every_instance):
    """[(name, instances, {column: value or None})], kernels first."""
    groups = {}
    for code in codes:
        name = code.name if every_instance else code.template
        groups.setdefault((not code.is_kernel, name), []).append(code)
    for (is_function, name), some in sorted(groups.items()):
        largest = {
            column: max(getattr(code, column) for code in some)
            for column in ("registers", "shared", "stack", "spilled")
        }
        for instruction in INSTRUCTIONS:
            counted = [code.counts[instruction] for code in some if code.counts]
            largest[instruction] = max(counted, default=None)
        yield name + (" (function)" if is_function else ""), len(some), largest


COLUMNS = {
    "registers": "registers",
    "shared": "shared bytes",
    "spilled": "spilled bytes",
    "matrix": "matrix instr.",
    "local": "local memory instr.",
    "async": "async copies",
}


def show(found, every_instance):
    """Prints one table, in Markdown: a column has the values of all architectures."""
    lines = {}
    for architecture, codes in found.items():
        for name, count, values in rows(codes, every_instance):
            line = lines.setdefault(name, {"count": count})
            line[architecture] = values
    table = [["kernel", "instances", *COLUMNS.values()]]
    lines = dict(sorted(lines.items(), key=lambda item: (item[0].endswith(")"), item[0])))
    for name, line in lines.items():
        cells = [name.replace("|", "\\|"), str(line["count"])]
        for column in COLUMNS:
            values = [line.get(a, {}).get(column) for a in found]
            texts = ["-" if value is None else str(value) for value in values]
            cells.append(texts[0] if len(set(texts)) == 1 else " / ".join(texts))
        table.append(cells)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    table.insert(1, ["-" * width for width in widths])
    for row in table:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")


def main(arguments=None):
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parse.add_argument("--every-instance", action="store_true")
    parse.add_argument("--kernels", default="", metavar="REGEX", help="those whose name has it")
    parse.add_argument("--names", metavar="ARCHITECTURE", help="only list the kernels, as C++ has them")
    parse.add_argument("--nvdisasm", default=find_disassembler(), help="the program")
    options = parse.parse_args(arguments)
    found = read(options.folder, None if options.names else options.nvdisasm)
    if not found:
        parse.exit(1, f"No sm_*.txt in {options.folder}: make cuda-check\n")
    wanted = re.compile(options.kernels)
    found = {a: [code for code in codes if wanted.search(code.name)] for a, codes in found.items()}
    if options.names:
        print(*sorted(code.name for code in found[options.names] if code.is_kernel), sep="\n")
        return 0
    print(f"Where numbers differ: {' / '.join(found)}.")
    if not options.nvdisasm:
        print("nvdisasm is missing: pip install nvidia-cuda-nvdisasm")
    print()
    show(found, options.every_instance)
    spilling = [
        (architecture, code)
        for architecture, codes in found.items()
        for code in codes
        if code.is_kernel and code.spilled
    ]
    without = [
        (architecture, code)
        for architecture, codes in found.items()
        for code in codes
        if code.is_kernel and MATRIX.search(code.template) and code.counts.get("matrix") == 0
    ]
    for architecture, code in spilling:
        print(f"\n{architecture}: {code.name} spills {code.spilled} bytes", end="")
    for architecture, code in without:
        print(f"\n{architecture}: {code.name} has no matrix instruction", end="")
    print()
    return 1 if spilling or without else 0


if __name__ == "__main__":
    sys.exit(main())
