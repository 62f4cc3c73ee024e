"""The one table of a run, and what stands below it."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from benchmarks.peers import EMPTY, IMPLEMENTATIONS, OURS


def show(results, machine, peak_name, threads, console=None):
    """Prints the table.

    Args:
        results: list of `Result`.
        machine: of `machine.describe`.
        peak_name: what the shares are shares of.
        threads: of every implementation.
        console: of rich; default: standard output.
    """
    console = console or Console(highlight=False)
    timed = [r for r in results if r.seconds]
    table = Table(
        title=_title(machine, threads, timed, peak_name), title_justify="left", pad_edge=False
    )
    detailed = any(r.detail for r in results)
    dtypes = len({r.case.dtype for r in results}) > 1 or results[0].case.dtype != "float32"
    others = [
        name for name in IMPLEMENTATIONS
        if name != "ours" and any(name in r.seconds or name in r.differing for r in results)
    ]
    compared = any(r.best_peer() for r in timed)
    found = any(r.goals for r in results)

    table.add_column("case\nB,T,I,H", no_wrap=True)
    table.add_column("mask", no_wrap=True)
    table.add_column("pass", no_wrap=True)
    if dtypes:
        table.add_column("dtype", no_wrap=True)
    if detailed:
        table.add_column("", no_wrap=True)
    for heading in ("ours\nms", "\nGFLOP/s", f"of the\n{peak_name.split()[-1]}"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in others:
        table.add_column(f"{name}\nms (share)", justify="right", no_wrap=True)
    if compared:
        table.add_column("best peer", no_wrap=True)
        table.add_column("best /\nours", justify="right", no_wrap=True)
        table.add_column("keras /\nours", justify="right", no_wrap=True)
    if found:
        table.add_column("found", no_wrap=True)

    group = None
    for result in results:
        case = result.case
        if group not in (None, (result.suite, case.cell)):
            table.add_section()
        group = result.suite, case.cell
        mask = f"{case.mask} {100 * case.real:.3g} %" if case.masked else "dense"
        row = [str(case), mask, case.pass_name]
        row += [case.dtype] * dtypes + [result.detail] * detailed
        row += _ours(result) + [_other(result, name) for name in others]
        if compared:
            best = result.best_peer()
            row += [best or "", _ratio(result, best, "best"), _ratio(result, "keras", "keras")]
        if found:
            lines = [Text(str(g), style="" if g.met else "red") for g in result.goals]
            row.append(Text("\n").join(lines))
        table.add_row(*row)

    # A terminal that is too narrow may break the lines; rich would squeeze the columns.
    needed = Measurement.get(console, console.options.update(max_width=10**4), table).maximum
    console.width = max(console.width, needed)
    console.print(table)
    for line in _notes(results, others, compared):
        console.print(line, soft_wrap=True, markup=False)


def missed(results):
    """[(result, goal)] of the goals that were not reached."""
    return [(r, goal) for r in results for goal in r.all_goals() if not goal.met]


def _title(machine, threads, timed, peak_name):
    title = f"{machine['cpu']}, {machine['isa']}, {threads} threads"
    if timed:
        peaks = sorted(r.peak / 1e9 for r in timed)
        title += f", {peak_name} {peaks[0]:.0f} to {peaks[-1]:.0f} GFLOP/s in the same rounds"
    return title


def _ours(result):
    if "ours" not in result.seconds:
        return ["", "", ""]
    share, needed = f"{100 * result.share():.0f} %", result.needed.get("peak")
    if needed is not None:
        share = _with_goal(share, result.share(), needed, f"{100 * needed:.0f}")
    return [_ms(result.median()), f"{result.flops() / 1e9:.1f}", share]


def _other(result, name):
    if name in result.differing:
        return Text(f"differs by {result.errors[name]:.0e}", style="red")
    if name not in result.seconds:
        return ""
    if name == EMPTY:
        return _ms(result.median(name))
    return f"{_ms(result.median(name))} ({100 * result.share(name):2.0f} %)"


def _ratio(result, name, goal):
    if name not in result.seconds or "ours" not in result.seconds:
        return ""
    ratio, needed = result.ratio(name), result.needed.get(goal)
    text = f"{ratio:.2f}"
    return text if needed is None else _with_goal(text, ratio, needed, f"{needed:g}")


def _with_goal(text, value, needed, shown):
    """"3.10 [2.8]", or with "<" before a goal that was not reached."""
    met = value >= needed
    return Text(f"{text} {' ' if met else '<'}[{shown}]", style="" if met else "red")


def _ms(seconds):
    return f"{1e3 * seconds:.2f}" if seconds >= 1e-3 else f"{1e3 * seconds:.4f}"


def _notes(results, others, compared):
    if others:
        yield "ms: median over the rounds. (share): GFLOP/s over real steps, of the same peak."
    if any("16" in r.case.dtype for r in results):
        yield "bfloat16, float16: the share is of the float32 peak."
    if compared:
        yield "best: the fastest peer."
    if any(r.needed for r in results):
        yield "[goal]; < where it was not reached."
    reasons = {}
    for result in results:
        for name, reason in result.skipped.items():
            reasons.setdefault((name, reason), []).append(result)
    for (name, reason), where in reasons.items():
        yield f"skipped: {name}, {len(where)} of {len(results)} lines: {reason}"
    for result in results:
        for name in result.differing:
            whose = "ours" if name in OURS else "the peer"
            yield (
                f"NOT TIMED, {whose} differs: {name} by {result.errors[name]:.1e} for "
                f"{result.case}, {result.case.mask}, {result.case.pass_name}, {result.case.dtype}"
            )
    goals = [goal for r in results for goal in r.all_goals() if goal.needed is not None]
    if goals:
        yield f"goals: {sum(goal.met for goal in goals)} of {len(goals)} reached"
        for result, goal in missed(results):
            case = result.case
            words = (str(case), case.mask, case.pass_name, case.dtype, result.detail)
            yield f"  {', '.join(filter(None, words))}: {goal}"
