"""masked_rnn on an NVIDIA GPU: are its numbers right, and how fast is it? One command, no TensorFlow.

    pip install . rich torch          (or cupy-cuda12x in place of torch; nvcc is not needed)
    python benchmarks/gpu.py          about 8 minutes
    python benchmarks/gpu.py --parts numbers --json numbers.json

1. Numbers: forward and backward of every kernel, in every precision, with every kind of mask and
   NaN at the masked steps, beside a plain loop in float64; and twice, for the same bits.
2. Exchange: what it costs blocks to pass a state on, alone.
3. Speed: forward and training beside PyTorch's cuDNN (packed, and padded), in turns, medians of
   CUDA events. Numbers that differ are not timed. The floor is the least time that the device's
   properties allow (benchmarks/on_gpu/floors.py); ratios are how many times as long cuDNN takes.

A kernel that this device, or this version, does not have for a case is named as skipped. The last
line is PASS or FAIL, and the exit status says the same: FAIL where a number is wrong, bits differ or
a call fails. Goals of speed are shown as met or missed, and fail nothing.

--emulated runs all of it on the CPU shim (`make cusim-module`), where times mean nothing.
"""

import argparse
import importlib.metadata
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Not this folder, whose modules have common names; the package of the clone, where none is
# installed.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks"] + [str(ROOT)]

PARTS = ("numbers", "exchange", "speed")
NUMBERS_SHARE = 0.55  # of the minutes, at most
LAST_CASE = 15  # seconds that the last case of the speed may take
# On the shim, which takes long for more.
EMULATED_SIZES = ((6, 5, 7, 9), (9, 4, 8, 16))


def main(arguments=None):
    options = _options(arguments)
    start = time.monotonic()

    def left(share=1.0):
        return share * 60 * options.minutes - (time.monotonic() - start)

    from benchmarks.on_gpu import devices, floors, numbers, primitives, report, speed
    from masked_rnn import cuda

    try:
        device = devices.Emulated(options.folder) if options.emulated else devices.find()
    except (RuntimeError, OSError) as error:
        return _end(f"FAIL: {error}")
    missing = cuda.unusable_because()
    if missing is not None:
        return _end(f"FAIL: {missing}")
    properties = floors.Properties.of(devices.attributes(device.ordinal))
    say = _progress(start)
    record = {"device": vars(properties), "versions": _versions(), "emulated": options.emulated}
    report.heading(properties, record["versions"])
    failures = []

    if "numbers" in options.parts:
        sizes = EMULATED_SIZES if options.emulated else numbers.SIZES
        todo = list(numbers.checks(sizes=sizes))[:: options.every]
        outcomes, missed = numbers.run(device, todo, left(NUMBERS_SHARE), say)
        failures += report.numbers(outcomes, missed)
        record["numbers"] = report.plain(outcomes)
    if "exchange" in options.parts:
        rounds = (2, 6) if options.emulated else primitives.ROUNDS
        exchanges = primitives.run(device, properties, rounds)
        failures += report.exchanges(exchanges)
        record["exchange"] = report.plain(exchanges)
    if "speed" in options.parts:
        todo, turns = speed.suite(), speed.ROUNDS
        if options.emulated:
            todo, turns = speed.emulated_suite(), 1
        timings, missed = speed.run(device, properties, todo, left() - LAST_CASE, turns, say)
        failures += report.speed(timings, missed)
        record["speed"] = [timing.as_json() for timing in timings]

    say("")
    record |= {"failures": failures, "seconds": time.monotonic() - start}
    if options.json:
        options.json.write_text(json.dumps(record, indent=1, default=float) + "\n")
    for failure in failures[:20]:
        print(failure)
    return _end("PASS" if not failures else f"FAIL: {len(failures)} of the above")


def _options(arguments):
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--minutes", type=float, default=8, help="for everything (8)")
    parse.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parse.add_argument("--json", type=Path, help="a file for all numbers")
    parse.add_argument("--every", type=int, default=1, metavar="N", help="every N-th check only")
    parse.add_argument("--emulated", action="store_true", help="on the CPU shim")
    parse.add_argument("--folder", help="of the emulated driver (build/cusim/driver)")
    options = parse.parse_args(arguments)
    if options.minutes <= 0 or options.every < 1:
        parse.error("--minutes and --every are positive")
    return options


def _versions():
    found = {}
    for name in ("masked_rnn", "torch", "cupy-cuda12x", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
                 "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc"):  # fmt: skip
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _progress(start):
    """Says on standard error what is going on, on a terminal."""

    def say(text):
        if sys.stderr.isatty():
            stamp = f"{time.monotonic() - start:4.0f} s  "
            print(f"\r\x1b[K{stamp + text if text else ''}", end="", file=sys.stderr, flush=True)

    return say


def _end(verdict):
    print(verdict)
    return 0 if verdict == "PASS" else 1


if __name__ == "__main__":
    sys.exit(main())
