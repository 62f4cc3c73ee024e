"""Checks and times implementations side by side, in one run."""

import dataclasses
import gc
import statistics
import time
from typing import Any, Callable

import numpy as np

from benchmarks import agreement
from benchmarks.peers import EMPTY, IMPLEMENTATIONS, OURS, Unavailable
from benchmarks.results import Result

TURN = 0.03  # seconds that the calls of one turn should take
MOST_CALLS = 100  # in a turn
SLOW_CALL = 0.05  # seconds; a call that takes longer needs no call before it to warm up


@dataclasses.dataclass
class Session:
    """What all measurements of one run share.

    Attributes:
        threads: for every implementation.
        rounds: turns that each gets.
        peers: names, in the order of the table.
        quick: fewer and smaller cases.
        peak: a `machine.Peak`.
        say: is told what is going on.
    """

    threads: int
    rounds: int
    peers: tuple
    quick: bool
    peak: Any
    say: Callable[[str], None]


def measure(session, cases, names=None, **fields):
    """Times all cases with all implementations in the same rounds.

    Args:
        session: a `Session`.
        cases: `Case`s that are compared with each other, so that they belong into the same
            rounds.
        names: of IMPLEMENTATIONS; default: ours and the session's peers.
        fields: of every `Result`, such as suite.

    Returns:
        A `Result` for each case.
    """
    names = list(dict.fromkeys([*OURS, *session.peers] if names is None else names))
    results, calls = [], {}
    for i, case in enumerate(cases):
        session.say(f"{case}, {case.mask}, {case.dtype}, {case.pass_name}")
        result = Result(case, **fields)
        for name, call in prepare(session, result, names).items():
            calls[i, name] = call
        results.append(result)
    seconds, peaks = interleave(session, calls)
    for (i, name), values in seconds.items():
        results[i].seconds[name] = values
    for result in results:
        set_peak(result, peaks)
    return results


def measure_each(session, cases, names=None, **fields):
    """As `measure`, for cases that are not compared with each other: rounds of their own each."""
    return [result for case in cases for result in measure(session, [case], names, **fields)]


def prepare(session, result, names):
    """Builds and checks every implementation of a case.

    Returns {name: call} of those that can be timed; the others are entered in the result.
    """
    problem = result.case.problem()
    calls, want = {}, None
    for name in sorted(names, key=lambda n: n != "ours"):  # ours is what the others must equal
        try:
            run = IMPLEMENTATIONS[name](problem, session.threads)
            got = run.numbers(run.call())
            if want is not None and name != EMPTY:
                result.errors[name] = agreement.difference(problem, got, want)
        except Unavailable as reason:
            result.skipped[name] = str(reason)
            continue
        except Exception as error:  # noqa: BLE001  a peer's fault must not end the run
            if name in OURS:
                raise
            first = (str(error).strip().splitlines() or [""])[0]
            result.skipped[name] = f"failed: {type(error).__name__}: {first[:120]}"
            continue
        if name == "ours":
            want = got
        elif result.errors.get(name, 0.0) > agreement.tolerance(result.case):
            result.differing.append(name)
            continue
        calls[name] = run.call
    return calls


def interleave(session, calls):
    """Times functions in turns: in every round each has one, in an order drawn anew.

    Args:
        session: its rounds and its peak.
        calls: {key: function}; a function is called without arguments, often.

    Returns:
        {key: [median seconds of a call in each round]}, and [the peak in each round, FLOP/s].
    """
    calls_a_turn = {key: _calls_a_turn(call) for key, call in calls.items()}
    seconds, peaks = {key: [] for key in calls}, []
    order = np.random.default_rng(7)
    gc.collect()
    gc.disable()
    try:
        for _ in range(session.rounds):
            settle()
            peaks.append(session.peak.measure())
            for at in order.permutation(len(calls)):
                key = list(calls)[at]
                settle()
                # On a busy machine a call may take far longer than foreseen.
                values = turn(calls[key], calls_a_turn[key], longest=5 * TURN)
                seconds[key].append(statistics.median(values))
    finally:
        gc.enable()
    return seconds, peaks


def turn(call, times, longest=float("inf")):
    """Seconds of each of `times` calls in a row, after one that does not count if they are short.

    Ends before, with one call at least, when `longest` seconds are over.
    """
    if times > 1:
        call()
    seconds = []
    while len(seconds) < times and sum(seconds) < longest:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def settle():
    """Waits until no thread of this process is busy: some spin for a while after their work."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(0.002)
        if time.process_time() - before < 0.0003:
            return


def set_peak(result, peaks):
    """Enters the median of `interleave`'s peaks; a float64 vector has half as many elements."""
    result.peak = statistics.median(peaks) / (2 if result.case.dtype == "float64" else 1)


def _calls_a_turn(call):
    once = min(turn(call, 1))
    if once > SLOW_CALL:
        return 1
    return int(min(MOST_CALLS, max(2, TURN / once)))
