"""The commands.

    python -m masked_rnn info [--json]
    python -m masked_rnn try MODEL.keras [--batch N] [--time T] [--rounds R] [--import MODULE]
                                         [--json]

`info` says what is installed and what it can use. `try` loads a model, swaps its layers as
`masked_rnn.accelerate` does, checks that outputs and gradients agree on masked random input, and
times both; the file is not changed.

Exit codes: 0 all is well; 1 the numbers do not agree, or (`info`) the layers cannot be used;
2 wrong arguments, or a model that cannot be loaded or fed.
"""

import argparse
import json
import os
import sys
import warnings
from typing import List, Optional

# Before TensorFlow is imported, whose start-up notes would stand among the answer.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs a command; returns its exit code (argparse ends the process on wrong arguments)."""
    options = _parser().parse_args(arguments)
    return options.run(options)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m masked_rnn", description="GRU and LSTM that run the real steps only."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="what is installed and what it can use")
    info.set_defaults(run=_info)

    attempt = commands.add_parser("try", help="check and time a model of yours with these layers")
    attempt.set_defaults(run=_try)
    attempt.add_argument("model", metavar="MODEL.keras", help="a file that Keras can load")
    attempt.add_argument("--batch", type=_positive, default=32, metavar="N", help="default 32")
    attempt.add_argument(
        "--time", type=_positive, default=64, metavar="T",
        help="time steps where the model leaves them open, default 64",
    )  # fmt: skip
    attempt.add_argument(
        "--rounds", type=_positive, default=5, help="how often each is timed, default 5"
    )
    attempt.add_argument(
        "--import", dest="modules", action="append", default=[], metavar="MODULE",
        help="a module that registers the model's own classes",
    )  # fmt: skip
    for command in (info, attempt):
        command.add_argument("--json", action="store_true", help="for machines")
    return parser


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def _info(options):
    from masked_rnn import info

    found = info.collect()
    print(json.dumps(found, indent=2) if options.json else info.shown(found))
    return 0 if found["usable"] else 1


def _try(options):
    sys.path.insert(0, os.getcwd())  # where the user's own modules are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from masked_rnn import trial

            found = trial.run(
                options.model, options.batch, options.time, options.rounds, options.modules
            )
        except ImportError as error:
            return _failed(options, error, 1 if "masked_rnn" in str(error) else 2)
        except Exception as error:  # noqa: BLE001
            # Whatever Keras raises over a file, or a user's layer over its input.
            return _failed(options, error, 2)
    print(json.dumps(found, indent=2) if options.json else trial.shown(found))
    return 0 if found["agree"] else 1


def _failed(options, error, code):
    message = f"{type(error).__name__}: {error}".strip()
    if options.json:
        print(json.dumps({"model": options.model, "error": message}))
    print(f"python -m masked_rnn try: {options.model}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
