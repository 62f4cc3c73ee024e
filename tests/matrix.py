"""Runs one wheel with every TensorFlow, each with old and new Keras, and prints a table.

    python tests/matrix.py dist/*.whl [--folder build/matrix] [--only 2.16 nightly] [--keras oldest]

Each TensorFlow gets a virtual environment, which is removed afterwards. In it run
`test_smoke.py`, Keras's own tests with our layers (`test_keras_suite.py`), `stream_offsets.py`, and
`exchange.py`: each reads the models of the oldest TensorFlow with the oldest Keras, and the newest
reads each one's. What fails does not stop the rest; the exit status is 1 if something failed in
this run. The table and FOLDER/results.json hold the rows of earlier runs too, FOLDER/logs what the
commands said. Needs uv and rich, and g++ for `stream_offsets.py`.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table
from uv import find_uv_bin

TESTS = Path(__file__).resolve().parent
TENSORFLOW = {
    **{f"2.{minor}": f"tensorflow-cpu==2.{minor}.*" for minor in range(16, 22)},
    "2.22rc": "tensorflow-cpu>=2.22.0rc0,<2.23",
    "nightly": "tf-nightly-cpu",
}
OLDEST, *_, NEWEST = TENSORFLOW
# The oldest that both this package and TensorFlow accept, what TensorFlow comes with, the newest
# release. The oldest is first, as all others read its models.
KERAS = ("oldest", "brought", "newest")
STEPS = {
    "smoke": "smoke tests",
    "suite": "Keras's tests",
    "stream": "GPU stream",
    "reads": f"reads {OLDEST}'s models",
    "read": f"is read by {NEWEST}",
}
SECONDS = 600  # for one command
console = Console(width=120)


class Environment:
    """A virtual environment with one TensorFlow, and the commands that run in it."""

    def __init__(self, folder):
        self.folder, self.python = folder / "environment", folder / "environment/bin/python"
        self.outside = folder / "outside"  # where nothing can be imported from
        self.outside.mkdir(parents=True, exist_ok=True)
        self.variables = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("MASKED_RNN_", "PYTHON"))},
            "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(folder / "cache")),
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def make(self, *requirements):
        self.remove()
        self._uv("venv", "--quiet", "--python", sys.executable, str(self.folder))
        self.install(*requirements)

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def install(self, *arguments):
        self._uv("pip", "install", "--quiet", "--python", str(self.python), *arguments)

    def uninstall(self, *names):
        self._uv("pip", "uninstall", "--quiet", "--python", str(self.python), *names)

    def versions(self):
        """{name: version} of all that is installed."""
        command = ("pip", "list", "--quiet", "--format", "json", "--python", str(self.python))
        return {p["name"]: p["version"] for p in json.loads(self._uv(*command))}

    def oldest_keras(self):
        """The oldest version that what is installed here accepts, ours and TensorFlow."""
        (site,) = self.folder.glob("lib/*/site-packages")
        required = [r for d in metadata.distributions(path=[str(site)]) for r in d.requires or ()]
        pattern = re.compile(r"keras(?:-nightly)? *>=([\d.]+\d)")
        found = [match[1] for match in map(pattern.match, required) if match]
        return max(found, key=lambda version: [int(n) for n in version.split(".")])

    def run(self, log, *arguments):
        """(whether it passed, seconds, what it said) of Python with these arguments."""
        start = time.monotonic()
        try:
            done = subprocess.run(
                [self.python, *arguments], env=self.variables, cwd=self.outside, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS,
            )  # fmt: skip
            passed, said = done.returncode == 0, done.stdout
        except subprocess.TimeoutExpired as error:
            passed, said = False, f"{error.stdout}\nno end within {SECONDS} s"
        log.write_text(said)
        return passed, time.monotonic() - start, said

    def _uv(self, *arguments):
        command = [find_uv_bin(), *arguments]
        done = subprocess.run(command, env=self.variables, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout


class Matrix:
    """The rows of the table: one for each pair of a TensorFlow and a Keras."""

    def __init__(self, wheel, folder):
        self.wheel, self.folder = wheel, folder
        self.mark = hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]
        self.file = folder / "results.json"
        self.rows = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.environment = Environment(folder)
        for name in ("logs", "models"):
            (folder / name).mkdir(exist_ok=True)

    def run(self, tensorflow, kinds):
        """All rows of one TensorFlow; whether everything passed."""
        try:
            self.environment.make(TENSORFLOW[tensorflow], "pytest")
            self.environment.install("--no-deps", str(self.wheel))
            brought = self._keras()
            passed = [self._run_with_keras(tensorflow, kind, brought) for kind in kinds]
        except RuntimeError as error:
            console.print(f"[red]TensorFlow {tensorflow} cannot be installed:[/] {error}")
            return False
        finally:
            self.environment.remove()
        return all(passed)

    def table(self):
        table = Table("TensorFlow", "Keras", "NumPy", *STEPS.values())
        order = list(TENSORFLOW)
        for row in sorted(
            self.rows.values(), key=lambda r: (order.index(r["tensorflow"]), r["number"])
        ):
            keras = f"{row['keras']} ({', '.join(row['kinds'])})"
            other = "" if row["wheel"] == self.mark else " (another wheel)"
            cells = [self._cell(row["outcomes"].get(step)) for step in STEPS]
            table.add_row(row["version"] + other, keras, row["numpy"], *cells)
        return table

    def _keras(self):
        """(distribution, version) of the Keras in the environment."""
        versions = self.environment.versions()
        return next((n, versions[n]) for n in ("keras-nightly", "keras") if n in versions)

    def _run_with_keras(self, tensorflow, kind, brought):
        self._install_keras(kind, brought)
        (keras, number), versions = self._keras(), self.environment.versions()
        name = f"{tensorflow}-{keras}-{number}"
        row = self.rows.get(name)
        if row and row["wheel"] == self.mark and kind not in row["kinds"]:
            row["kinds"].append(kind)  # is the same as another
            self._save()
            return all(outcome["passed"] for outcome in row["outcomes"].values())
        row = self.rows[name] = {
            "tensorflow": tensorflow,
            "version": next(
                versions[n] for n in ("tensorflow-cpu", "tf-nightly-cpu") if n in versions
            ),
            "keras": f"{'nightly ' if 'nightly' in keras else ''}{number}",
            "number": [int(n) for n in re.findall(r"\d+", number)],
            "kinds": [kind],
            "numpy": versions["numpy"],
            "wheel": self.mark,
            "outcomes": {},
        }
        console.print(f"[bold]TensorFlow {row['version']}, Keras {row['keras']}, {kind}")
        pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default")
        self._step(name, "smoke", *pytest, str(TESTS / "test_smoke.py"))
        self._step(name, "suite", *pytest, str(TESTS / "test_keras_suite.py"))
        self._step(name, "stream", str(TESTS / "stream_offsets.py"))
        models, exchange = self.folder / "models", str(TESTS / "exchange.py")
        written, _, said = self.environment.run(
            self.folder / "logs" / f"{name}-write.txt", exchange, "write", str(models / name)
        )
        if not written:
            row["outcomes"]["read"] = {"passed": False, "text": "not written"}
            console.print(said[-2000:], markup=False)
        for other in self.rows:
            if other.startswith(f"{OLDEST}-") and "oldest" in self.rows[other]["kinds"]:
                self._step(name, "reads", exchange, "read", str(models / other))
        if tensorflow == NEWEST and kind == "brought":
            for other in [o for o in self.rows if (models / o).exists()]:
                self._step(other, "read", exchange, "read", str(models / other))
        return all(outcome["passed"] for outcome in row["outcomes"].values())

    def _install_keras(self, kind, brought):
        oldest = f"keras>={self.environment.oldest_keras()}"
        arguments = {
            "oldest": ["--resolution", "lowest-direct", oldest],
            "brought": ["==".join(brought)],
            "newest": ["--upgrade", "keras"],
        }[kind]
        self.environment.uninstall("keras", "keras-nightly")  # they hold the same files
        self.environment.install("--no-deps", *arguments)

    def _step(self, name, step, *arguments):
        log = self.folder / "logs" / f"{name}-{step}.txt"
        passed, seconds, said = self.environment.run(log, *arguments)
        last = said.strip().split("\n")[-1]
        counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)\b", last)
        text = ", ".join(counts) or ("passed" if passed else "failed")
        self.rows[name]["outcomes"][step] = {"passed": passed, "text": text}
        self._save()
        console.print(f"  {STEPS[step]}: {text} ({seconds:.0f} s)")
        if not passed:
            console.print(f"[red]  see {log}")

    def _save(self):
        self.file.write_text(json.dumps(self.rows, indent=1))

    @staticmethod
    def _cell(outcome):
        if outcome is None:
            return "-"
        return outcome["text"] if outcome["passed"] else f"[red]{outcome['text']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/matrix"))
    parser.add_argument("--only", nargs="+", choices=TENSORFLOW, default=list(TENSORFLOW))
    parser.add_argument("--keras", nargs="+", choices=KERAS, default=list(KERAS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    matrix = Matrix(arguments.wheel.resolve(), arguments.folder.resolve())
    passed = [matrix.run(version, arguments.keras) for version in arguments.only]
    console.print(matrix.table())
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
