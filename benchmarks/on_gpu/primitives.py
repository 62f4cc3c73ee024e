"""What it costs blocks to pass a state on, alone: what the design of the kernels rests on."""

import dataclasses

from masked_rnn import cuda

THREADS = 128
ROUNDS = (200, 1200)  # the difference leaves the launch out
CLUSTERS = (8, 16)


@dataclasses.dataclass
class Exchange:
    """A way to exchange.

    Attributes:
        name: of the way.
        seconds: of one round; None where it was not timed.
        right: whether every block saw what it should.
        skipped: why this device cannot do it, or "".
    """

    name: str
    seconds: float | None = None
    right: bool = True
    skipped: str = ""


def run(device, properties, rounds=ROUNDS):
    """[`Exchange`]: the barrier of a grid of all multiprocessors, and clusters."""
    ways = [(f"grid barrier, {properties.multiprocessors} blocks", properties.multiprocessors, 1)]
    ways += [(f"cluster of {size}, 16 bytes a thread to each block", size, size) for size in CLUSTERS]
    return [_run(device, properties, name, blocks, cluster, rounds) for name, blocks, cluster in ways]


def _run(device, properties, name, blocks, cluster, rounds):
    if cluster > 1 and properties.capability < 90:
        return Exchange(name, skipped="clusters need compute capability 9.0")

    def call(count):
        return cuda.exchange(blocks, cluster, THREADS, count, device.ordinal, device.stream)

    try:
        right = all((device.get(call(count)) == count).all() for count in rounds)
    except MemoryError as error:  # no room for such a cluster
        return Exchange(name, skipped=str(error))
    few, many = (
        min(device.seconds(lambda: call(count), 3) for _ in range(5)) for count in rounds
    )
    return Exchange(name, (many - few) / (rounds[1] - rounds[0]), right)
