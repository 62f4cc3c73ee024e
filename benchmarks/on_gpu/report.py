"""The tables of benchmarks/gpu.py. Each function prints one, and returns what failed, in words."""

import dataclasses

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from benchmarks.on_gpu.calls import KERNELS
from benchmarks.on_gpu.numbers import MASKS
from benchmarks.on_gpu.speed import PEERS

_console = Console(highlight=False)


def _show(table):
    """At its full width: a terminal that is too narrow may break the lines."""
    needed = Measurement.get(_console, _console.options.update(max_width=10**4), table).maximum
    _console.width = max(_console.width, needed)
    _console.print(table)


def heading(properties, versions):
    """The device and what runs on it."""
    gigabytes = properties.bandwidth / 1e9
    _console.print(
        f"{properties.name}, compute capability {properties.capability / 10:.1f}, "
        f"{properties.multiprocessors} multiprocessors at {properties.clock / 1e9:.2f} GHz, "
        f"{gigabytes:.0f} GB/s; " + ", ".join(f"{n} {v}" for n, v in versions.items())
    )


def numbers(outcomes, missed):
    """The largest error of each kernel and precision, by mask, over what is tolerated."""
    table = Table(
        title="Numbers: largest error / tolerance over cells and sizes, forward and backward",
        title_justify="left",
    )
    for heading in ("kernel", "precision", "checks"):
        table.add_column(heading, justify="right" if heading == "checks" else "left")
    for mask in MASKS:
        table.add_column(mask, justify="right")
    table.add_column("bits repeat")
    for kernel, precision in dict.fromkeys((o.check.kernel, o.check.precision) for o in outcomes):
        some = [o for o in outcomes if (o.check.kernel, o.check.precision) == (kernel, precision)]
        ran = [o for o in some if not o.skipped]
        row = [kernel, precision, str(len(ran))]
        for mask in MASKS:
            of_mask = [o for o in ran if o.check.mask == mask]
            failed = any(o.failed for o in of_mask)
            worst = max((o.error for o in of_mask), default=None)
            row.append("failed" if failed else "" if worst is None else f"{worst:.2g}")
        twice = [o.repeats for o in ran if not o.failed]
        row.append("" if not twice else "yes" if all(twice) else "NO")
        if ran:
            table.add_row(*row)
    _show(table)
    reasons = {}
    for o in outcomes:
        if o.skipped:
            reasons.setdefault((o.check.kernel, o.skipped), []).append(o)
    for (kernel, reason), some in reasons.items():
        _console.print(f"{kernel}: {len(some)} checks skipped: {reason}")
    if missed:
        _console.print(f"{missed} checks were not reached in the time")
    failures = [_failure(o) for o in outcomes if not o.skipped and not o.passed]
    if not any(o.passed and not o.skipped for o in outcomes):
        failures.append("numbers: nothing was checked")
    return failures


def _failure(outcome):
    check = outcome.check
    where = f"{check.kernel} {check.cell} {check.precision} {check.sizes} {check.mask}"
    if outcome.failed:
        return f"{where}: {outcome.failed}"
    if outcome.error > 1:
        return f"{where}: {outcome.worst} is {outcome.error:.3g} times the tolerance away"
    return f"{where}: two calls gave different bits"


def exchanges(found):
    """Microseconds of one exchange."""
    table = Table(title="Exchange of a state between blocks, alone", title_justify="left")
    table.add_column("way")
    table.add_column("us", justify="right")
    for exchange in found:
        table.add_row(exchange.name, exchange.skipped or f"{1e6 * exchange.seconds:.2f}")
    _show(table)
    return [f"{e.name}: a block saw an old value" for e in found if not e.right]


def speed(timings, missed):
    """Microseconds of a step of each implementation, the share of the floor, and ratios."""
    table = Table(title="Speed: us per time step, medians", title_justify="left")
    names = ("ours", *KERNELS, *PEERS)
    for heading in ("case B,T,I,H", "mask", "precision", "pass", "kernel"):
        table.add_column(heading)
    for name in names:
        table.add_column(name, justify="right")
    for heading in ("of the floor", "packed / ours", "padded / ours"):
        table.add_column(heading, justify="right")
    table.add_column("goal")
    for timing in timings:
        case = timing.case
        row = [str(case), case.mask, timing.precision, case.pass_name, timing.chosen]
        for name in names:
            median = timing.median(name)
            row.append("" if median is None else f"{1e6 * median / case.time:.2f}")
        row.append(f"{100 * timing.share:.2g} % ({timing.bound})")
        for name in PEERS:
            ratio = timing.ratio(name)
            row.append("" if ratio is None else f"{ratio:.2f}")
        row.append(_goal(timing))
        table.add_row(*row)
    _show(table)
    for line in dict.fromkeys(
        f"{name}: {reason}" for timing in timings for name, reason in timing.skipped.items()
    ):
        _console.print(line)
    goals = [_goal(timing) for timing in timings]
    wanted = [goal for goal in goals if goal]
    if wanted:
        met = sum(goal.endswith("met") for goal in wanted)
        _console.print(f"Goals of speed: {met} of {len(wanted)} met")
    if missed:
        _console.print(f"{missed} cases were not reached in the time")
    return [
        f"{timing.case} {timing.precision} {timing.case.pass_name}: {name} differs by {error:.3g} "
        "times the tolerance"
        for timing in timings
        for name, error in timing.errors.items()
        if error > 1 or error != error
    ]


def _goal(timing):
    ratio = timing.ratio("torch packed")
    if timing.goal is None or ratio is None:
        return ""
    return f"{timing.goal} {'met' if ratio >= timing.goal else 'missed'}"


def plain(found):
    """Dataclasses as dicts."""
    return [dataclasses.asdict(one) for one in found]
