"""How many examples the property tests draw.

By default few, and the same ones in every run. MASKED_RNN_EXAMPLES=10000 draws as many for every
test, different ones in every run; pytest's --hypothesis-seed repeats one.
"""

import os

from hypothesis import HealthCheck, settings

_WANTED = os.environ.get("MASKED_RNN_EXAMPLES")


def examples(by_default):
    """Decorates a test that hypothesis runs `by_default` times where nobody asks for more."""
    return settings(
        max_examples=int(_WANTED or by_default),
        derandomize=_WANTED is None,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
