"""Options of `python -m benchmarks`; what it does is written in __init__.py."""

import argparse
import importlib.util
import itertools
import json
import sys
import time
from pathlib import Path

import benchmarks

NEEDED = ("rich", "tensorflow", "keras")


def parser():
    """The options. Nothing but the standard library may be imported before `machine.confine`."""
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="%(prog)s [options]",
        description=benchmarks.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    case = parse.add_argument_group("cases of your own, all combinations, in place of a suite")
    several = {"nargs": "+", "metavar": "X"}
    cells = "gru", "gru_reset_before", "lstm"
    case.add_argument("--cell", choices=cells, help=f"{_list(cells)} (default: gru)", **several)
    case.add_argument(
        "--sizes", type=_sizes, help="B,T,I,H, several of them (default: 32,128,64,128)", **several
    )
    masks = "dense", "right", "left", "holes"
    case.add_argument(
        "--mask", choices=masks, help=f"{_list(masks)} (default: dense right)", **several
    )
    case.add_argument(
        "--real", type=_share, help="about this share of steps is real (default: 0.5)", **several
    )
    dtypes = "float32", "float64", "bfloat16", "float16"
    case.add_argument(
        "--dtype", choices=dtypes, help=f"{_list(dtypes)} (default: float32)", **several
    )
    passes = "forward", "training"
    case.add_argument(
        "--pass", choices=passes, dest="passes", help=f"{_list(passes)} (default: both)", **several
    )
    how = parse.add_argument_group("what and how")
    how.add_argument("--suite", help="see above; all for all (default: table)", **several)
    how.add_argument(
        "--peers",
        nargs="*",
        metavar="X",
        help="keras, keras_xla, torch_packed, torch_padded, onnxruntime, openvino "
        "(default: all but keras_xla)",
    )
    how.add_argument(
        "--threads", type=_positive, metavar="N", help="of everything (default: 2, or 1 if alone)"
    )
    how.add_argument("--rounds", type=_positive, metavar="N", help="default: 7, with --quick 3")
    how.add_argument("--quick", action="store_true", help="fewer rounds and cases")
    out = parse.add_argument_group("results")
    out.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    out.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="draw pictures; adds the suite growth, unless there are cases of your own",
    )
    return parse


def main():
    parse = parser()
    options = parse.parse_args()
    own = (options.cell, options.sizes, options.mask, options.real, options.dtype, options.passes)
    custom = any(option is not None for option in own)
    if custom and options.suite:
        parse.error("--suite has its own cases: leave the options of a case away")
    for name in (*NEEDED, *(["matplotlib"] if options.pictures else [])):
        if importlib.util.find_spec(name) is None:
            parse.exit(1, f"This needs {name}: pip install 'masked_rnn[cpu,bench]'\n")

    from benchmarks import machine

    threads = options.threads or min(2, machine.available_threads())
    if threads > machine.available_threads():
        parse.error(f"--threads {threads}: this process may use {machine.available_threads()} CPUs")
    machine.confine(threads)
    machine.start_tensorflow(threads)

    from benchmarks import peers, pictures, suites, table, timing

    names = peers.DEFAULT_PEERS if options.peers is None else tuple(options.peers)
    for name in names:
        if name not in peers.PEERS:
            parse.error(f"--peers {name}: known are {' '.join(peers.PEERS)}")
    session = timing.Session(
        threads=threads,
        rounds=options.rounds or (3 if options.quick else 7),
        peers=names,
        quick=options.quick,
        peak=machine.Peak(threads),
        say=_progress(),
    )
    chosen = _chosen(parse, options, custom, suites.SUITES)
    about = machine.describe()
    start, results = time.perf_counter(), []
    for name in chosen:
        results += suites.SUITES[name](session)
    if custom:
        results += timing.measure_each(session, _cases(options), suite="custom")
    session.say("")

    table.show(results, about, session.peak.name, threads)
    print(f"{time.perf_counter() - start:.0f} s, {session.rounds} rounds.")
    if about["load"] > 0.3:
        load = f"{about['load']:.1f}"
        print(f"At the start other processes kept {load} CPUs busy: believe no number.")
    if options.json:
        record = {"machine": about, "threads": threads, "rounds": session.rounds,
                  "peak": session.peak.name, "command": sys.argv[1:],
                  "results": [r.as_json() for r in results]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1, default=float) + "\n")
        print(f"All numbers: {options.json}")
    if options.pictures:
        bandwidth = machine.memory_bandwidth(threads)
        for path in pictures.draw(results, options.pictures, bandwidth):
            print(f"Picture: {path}")
    # Keras is the specification.
    wrong = [r for r in results if "keras" in r.differing or "ours numpy" in r.differing]
    return 1 if wrong else 0


def _chosen(parse, options, custom, known):
    chosen = options.suite or ([] if custom else ["table"])
    if "all" in chosen:
        chosen = list(known)
    if options.pictures and not custom and "growth" not in chosen:
        chosen = [*chosen, "growth"]
    for name in chosen:
        if name not in known:
            parse.error(f"--suite {name}: known are all {' '.join(known)}")
    return chosen


def _cases(options):
    """All combinations; a dense case once, whatever the shares of real steps."""
    from benchmarks.cases import PASSES, Case

    cases = [
        Case(cell, *sizes, mask, real if mask != "dense" else 0.5, dtype, name == "training")
        for cell, sizes, dtype, mask, real, name in itertools.product(
            options.cell or ["gru"],
            options.sizes or [(32, 128, 64, 128)],
            options.dtype or ["float32"],
            options.mask or ["dense", "right"],
            options.real or [0.5],
            options.passes or PASSES,
        )
    ]
    return list(dict.fromkeys(cases))


def _progress():
    """Says on standard error what is going on: one line that changes, or lines in a file."""
    start = time.perf_counter()

    def say(text):
        stamp = f"{time.perf_counter() - start:5.0f} s  "
        if sys.stderr.isatty():
            print(f"\r\x1b[K{stamp + text if text else ''}", end="", file=sys.stderr, flush=True)
        elif text:
            print(stamp + text, file=sys.stderr, flush=True)

    return say


def _list(names):
    return ", ".join(names)


def _sizes(text):
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, needed: four positive integers B,T,I,H")
    return sizes


def _share(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}, needed: a number over 0, at most 1")
    return value


def _positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, needed: a positive integer")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
