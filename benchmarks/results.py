"""What was measured for a case, and what can be said about it."""

import dataclasses
import statistics

from benchmarks.cases import Case
from benchmarks.peers import EMPTY, OURS


@dataclasses.dataclass
class Goal:
    """A number, and what it has to reach.

    Attributes:
        what: names the number.
        value: measured.
        needed: at least this, or at most this if `at_most`; None: it is only reported.
        unit: written behind both.
    """

    what: str
    value: float
    needed: float | None
    at_most: bool = False
    unit: str = ""

    @property
    def met(self):
        if self.needed is None:
            return True
        return self.value <= self.needed if self.at_most else self.value >= self.needed

    def __str__(self):
        text = f"{self.what} {_digits(self.value)}{self.unit}"
        if self.needed is None:
            return text
        bound = "at most" if self.at_most else "at least"
        missed = "" if self.met else " MISSED"
        return f"{text} ({bound} {_digits(self.needed)}{self.unit}){missed}"


@dataclasses.dataclass
class Result:
    """One line of the table.

    Attributes:
        case: what was run.
        detail: what the case does not say.
        suite: the suite that it belongs to.
        sweep: the quantity that is varied over several results ("real", "time", "units",
            "batch"), or "".
        work: FLOP on real steps.
        seconds: {implementation: median seconds of a call in each round}.
        errors: {implementation: largest difference from ours}.
        differing: implementations that differ by more than the tolerance: not timed.
        skipped: {implementation: the reason}.
        peak: FLOP/s, the most this machine does in float32, in the same rounds; for float64 half
            of that, for the 16-bit types float32's.
        needed: ratios and shares to reach: "peak" (a share), "best" and "keras" (ratios).
        goals: what else was found.
    """

    case: Case
    detail: str = ""
    suite: str = ""
    sweep: str = ""
    work: float = 0.0
    seconds: dict = dataclasses.field(default_factory=dict)
    errors: dict = dataclasses.field(default_factory=dict)
    differing: list = dataclasses.field(default_factory=list)
    skipped: dict = dataclasses.field(default_factory=dict)
    peak: float | None = None
    needed: dict = dataclasses.field(default_factory=dict)
    goals: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.work = self.work or float(self.case.flops())

    def median(self, name="ours"):
        """Seconds of a call."""
        return statistics.median(self.seconds[name])

    def flops(self, name="ours"):
        """FLOP/s over real steps."""
        return self.work / self.median(name)

    def share(self, name="ours"):
        """Of the peak."""
        return self.flops(name) / self.peak

    def ratio(self, name):
        """How many times as long as ours it takes."""
        return self.median(name) / self.median()

    def best_peer(self):
        """The peer that takes the least time, or None."""
        peers = [n for n in self.seconds if n not in OURS and n != EMPTY]
        return min(peers, key=self.median, default=None)

    def all_goals(self):
        """Those that `needed` makes, where they can be judged, and the others."""
        goals = []
        if "ours" in self.seconds:
            best = self.best_peer()
            if "peak" in self.needed:
                share = 100 * self.share()
                goals.append(Goal("share of the peak", share, 100 * self.needed["peak"], unit="%"))
            if "best" in self.needed and best is not None:
                what = f"times the best peer ({best})"
                goals.append(Goal(what, self.ratio(best), self.needed["best"]))
            if "keras" in self.needed and "keras" in self.seconds:
                goals.append(Goal("times Keras", self.ratio("keras"), self.needed["keras"]))
        return goals + self.goals

    def as_json(self):
        """Everything, as plain dicts and lists."""
        record = dataclasses.asdict(self)
        record["real_steps"] = self.case.real_steps()
        record["median_ms"] = {name: 1e3 * self.median(name) for name in self.seconds}
        record["goals"] = [dict(dataclasses.asdict(g), met=g.met) for g in self.all_goals()]
        return record


def _digits(x):
    """Four digits; whole numbers of more as they are."""
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.4g}"
