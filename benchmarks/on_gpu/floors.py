"""The least time that a call can take on a GPU, from the device's properties.

memory    Every array moves once (`Case.traffic`), at the memory's bandwidth: 2 transfers a clock
          times the width of the bus (CUDA C++ Best Practices Guide, "Theoretical Bandwidth
          Calculation").
products  The multiply-adds of real steps (`Case.flops`) at the peak of the unit that does them.
exchange  A recurrence whose weights do not fit one multiprocessor passes its state between several
          at every step of the longest row, in sequence, and in training twice. One pass takes at
          least the latency of another multiprocessor's shared memory, about 180 cycles (Luo et al.
          2024, arXiv:2402.13499), and twice that through L2 where there are no clusters.

The floor is the largest of the three; a call cannot be faster, and need not be able to reach it.
"""

import dataclasses

# FLOP of one multiprocessor in a clock, dense: (compute capability, {precision: FLOP}).
# From the peaks in NVIDIA's architecture white papers (A100, GA102, H100, Blackwell), divided by
# multiprocessors and clock; 16-bit products are those with float32 sums. Where the cards of one
# capability differ, the fastest.
PEAKS = (
    (80, {"float64": 64, "float32": 128, "tf32": 1024, "bfloat16": 2048, "float16": 2048}),
    (86, {"float64": 4, "float32": 256, "tf32": 512, "bfloat16": 1024, "float16": 1024}),
    (90, {"float64": 128, "float32": 256, "tf32": 2048, "bfloat16": 4096, "float16": 4096}),
    (100, {"float64": 128, "float32": 256, "tf32": 4096, "bfloat16": 8192, "float16": 8192}),
    (120, {"float64": 4, "float32": 256, "tf32": 512, "bfloat16": 1024, "float16": 1024}),
)
SHARED_MEMORY_CYCLES = 180


@dataclasses.dataclass(frozen=True)
class Properties:
    """What a floor needs of a device, in bytes, seconds and FLOP/s.

    Attributes:
        name: the device's; capability: 90 for 9.0.
        bandwidth: of its memory, bytes/s; 0 where the driver does not say.
        clock: Hz.
        storage: bytes of registers and shared memory of one multiprocessor.
        peak: {precision: FLOP/s}.
    """

    name: str
    capability: int
    multiprocessors: int
    clock: float
    bandwidth: float
    storage: int
    peak: dict

    @classmethod
    def of(cls, attributes):
        """From what `devices.attributes` found."""
        capability = 10 * attributes["capability_major"] + attributes["capability_minor"]
        clock, units = 1e3 * attributes["clock_khz"], attributes["multiprocessors"]
        known = [flops for since, flops in PEAKS if since <= capability] or [PEAKS[0][1]]
        return cls(
            name=attributes["name"],
            capability=capability,
            multiprocessors=units,
            clock=clock,
            bandwidth=2 * 1e3 * attributes["memory_khz"] * attributes["bus_bits"] / 8,
            storage=attributes["shared_bytes"] + 4 * attributes["registers"],
            peak={precision: flops * units * clock for precision, flops in known[-1].items()},
        )


def floors(case, precision, properties):
    """{"memory", "products", "exchange"}: the least seconds of a call, for each reason.

    Args:
        case: a `Case`.
        precision: its dtype, or "tf32".
        properties: `Properties`.
    """
    found = {"products": case.flops() / properties.peak[precision], "exchange": 0.0}
    found["memory"] = case.traffic() / properties.bandwidth if properties.bandwidth else 0.0
    item = {"float64": 8, "float32": 4, "tf32": 4}.get(precision, 2)
    if case.units * case.gates * case.units * item > properties.storage:
        steps = int(case.lengths().max()) * (2 if case.training else 1)
        cycles = SHARED_MEMORY_CYCLES * (1 if properties.capability >= 90 else 2)
        found["exchange"] = steps * cycles / properties.clock
    return found
