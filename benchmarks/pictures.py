"""Pictures of results: time against the share of real steps, against sizes, and a roofline."""

from collections import defaultdict

from benchmarks.cases import PASSES
from benchmarks.peers import EMPTY

COLOURS = {
    "ours": "#1f5fa8",
    "ours numpy": "#6fa3d8",
    "keras": "#e0791f",
    "keras_xla": "#b04a00",
    "torch_packed": "#c23b4e",
    "torch_padded": "#d98c97",
    "onnxruntime": "#4a9d5b",
    "openvino": "#7d6bb0",
}
LINES = {"right": "-", "left": "--", "holes": ":", "dense": "-"}
MARKERS = {False: "o", True: "^"}
SIZES = {"time": "time steps T", "units": "units H", "batch": "batch B"}


def draw(results, folder, bandwidth):
    """Writes every picture that the results have something for.

    Args:
        results: list of `Result`.
        folder: a pathlib.Path, made if it is missing.
        bandwidth: bytes a second, for the roofline.

    Returns:
        The files written.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "time_over_real_steps.png": _over_real_steps(results),
        "time_over_sizes.png": _over_sizes(results),
        "roofline.png": _roofline(results, bandwidth),
    }
    written = []
    for name, figure in pictures.items():
        if figure is not None:
            figure.savefig(folder / name, dpi=150)
            written.append(folder / name)
    return written


def _over_real_steps(results):
    results = [r for r in results if r.sweep == "real"]
    if not results:
        return None
    figure, axes = _figure(1, len(PASSES))
    for ax, training in zip(axes[0], (False, True)):
        curves = defaultdict(list)
        for result in results:
            if result.case.training == training:
                real = result.case.real_steps() / (result.case.batch * result.case.time)
                for name in result.seconds:
                    # For the others one mask is enough: theirs differ by what they can do.
                    if name == "ours" or result.case.mask == "right":
                        point = 100 * real, 1e3 * result.median(name)
                        curves[name, result.case.mask].append(point)
        for (name, mask), points in sorted(curves.items(), key=lambda c: c[0][0] != "ours"):
            label = f"{name}, {mask}" if name == "ours" else name
            ax.plot(*zip(*sorted(points)), LINES[mask], marker="o", markersize=4,
                    color=COLOURS[name], label=label)
        ax.set(title=f"{results[0].case}, {PASSES[training]}", xlabel="real steps (%)",
               ylabel="time (ms)")
        ax.set_xlim(0, 103)
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize="small")
    return figure


def _over_sizes(results):
    sweeps = [s for s in SIZES if any(r.sweep == s for r in results)]
    if not sweeps:
        return None
    figure, axes = _figure(len(PASSES), len(sweeps))
    for row, training in zip(axes, (False, True)):
        for ax, sweep in zip(row, sweeps):
            swept = [r for r in results if r.sweep == sweep and r.case.training == training]
            curves = defaultdict(list)
            for result in swept:
                for name in result.seconds:
                    point = getattr(result.case, sweep), 1e3 * result.median(name)
                    curves[name].append(point)
            for name, points in curves.items():
                ax.plot(*zip(*sorted(points)), marker="o", markersize=4, color=COLOURS[name],
                        label=name)
            values = sorted({getattr(r.case, sweep) for r in swept})
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xticks(values, [str(v) for v in values], minor=False)
            ax.minorticks_off()
            ax.set(title=f"{_fixed(swept[0].case, sweep)}, {PASSES[training]}",
                   xlabel=SIZES[sweep], ylabel="time (ms)")
            ax.tick_params(axis="x", labelsize="small")
            ax.legend(frameon=False, fontsize="small")
    return figure


def _fixed(case, sweep):
    """The case's title without the size that is varied."""
    sizes = {"batch": "B", "time": "T", "features": "I", "units": "H"}
    words = [f"{short} {getattr(case, name)}" for name, short in sizes.items() if name != sweep]
    half = "" if not case.masked else f", {100 * case.real:.0f} % real"
    return f"{str(case).split()[0]} {', '.join(words)}{half}"


def _roofline(results, bandwidth):
    shown = [r for r in results if "ours" in r.seconds and r.case.dtype == "float32"]
    if not shown:
        return None
    peak = max(r.peak for r in shown)
    figure, [[ax]] = _figure(1, 1, width=8, height=5.5)
    intensities = [r.work / _traffic(r) for r in shown]
    low = min(*intensities, peak / bandwidth) / 2
    high = max(*intensities, peak / bandwidth) * 2
    ridge = peak / bandwidth
    ax.plot([low, ridge, high], [low * bandwidth / 1e9, peak / 1e9, peak / 1e9], color="0.25",
            linewidth=1.5)
    ax.text(high, peak / 1e9 * 1.06, f"{peak / 1e9:.0f} GFLOP/s", ha="right", fontsize="small")
    ax.annotate(f"{bandwidth / 1e9:.0f} GB/s", (low, low * bandwidth / 1e9), (0, 24),
                textcoords="offset points", fontsize="small")
    seen = set()
    for result, intensity in zip(shown, intensities):
        for name in result.seconds:
            if name == EMPTY:
                continue
            training = result.case.training
            label = f"{name}, {PASSES[training]}"
            ax.plot(intensity, result.flops(name) / 1e9, MARKERS[training], color=COLOURS[name],
                    markersize=6 if name == "ours" else 4, alpha=1 if name == "ours" else 0.55,
                    linestyle="", label="_" if label in seen else label)
            seen.add(label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(title="Every case: work on real steps, and the roof",
           xlabel="FLOP on real steps per byte that must move", ylabel="GFLOP/s")
    ax.legend(frameon=False, fontsize="x-small", ncols=2, loc="lower right")
    return figure


def _traffic(result):
    """Bytes, as many times as the work is that of one call."""
    return result.case.traffic() * result.work / result.case.flops()


def _figure(rows, columns, width=4.6, height=4.0):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, squeeze=False, layout="constrained",
                                   figsize=(width * columns, height * rows))
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, axes
