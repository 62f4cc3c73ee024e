"""Holds TensorFlow's start-up notes back, for programs whose output people read."""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def quiet_unless_it_fails():
    """Holds back standard error: TensorFlow logs its start-up notes before its log level counts."""
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(standard_error, held_back.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
