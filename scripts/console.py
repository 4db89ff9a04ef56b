"""The console's JavaScript: `check` has TypeScript look at its types, `vendor` copies the libraries' files from npm.

Both take npm's packages at the versions and hashes of shared/console/package-lock.json, and put them beside the
virtual environment. Nothing of this is needed to run the console.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared.errors import Fatal
from shared.process import ROOT, fatal_in_one_line

SOURCE = ROOT / "shared" / "console"
VENDOR = SOURCE / "static" / "vendor"
LIST = VENDOR / "versions.json"
NO_NPM = (
    "the console's JavaScript is checked by TypeScript, which comes from npm, and there is no npm here. Get it: "
    "apt install nodejs npm (Debian 12, Ubuntu 24.04 or later), or Node.js 18 or later from nodejs.org"
)
FILES = {
    "shared/console/static/vendor/htm-preact.js": ("htm", "preact/standalone.module.js"),
    "shared/console/static/vendor/htm-preact.LICENSE": ("htm", "LICENSE"),
    "shared/console/static/vendor/preact.LICENSE": ("preact", "LICENSE"),
    "shared/console/static/vendor/uplot.js": ("uplot", "dist/uPlot.esm.js"),
    "shared/console/static/vendor/uplot.css": ("uplot", "dist/uPlot.min.css"),
    "shared/console/static/vendor/uplot.d.ts": ("uplot", "dist/uPlot.d.ts"),
    "shared/console/static/vendor/uplot.LICENSE": ("uplot", "LICENSE"),
    "tests/data/axe.min.js": ("axe-core", "axe.min.js"),
}
"""Where each vendored file is, and where it comes from. htm's file has a Preact of its own, built in."""


def packages() -> Path:
    """The packages of the lock file, installed by npm unless they are. Raises `Fatal`."""
    folder, lock = ROOT / ".venv" / "console", (SOURCE / "package-lock.json").read_bytes()
    installed = folder / "package-lock.json"
    if not installed.is_file() or installed.read_bytes() != lock or not (folder / "node_modules").is_dir():
        npm = shutil.which("npm")
        if npm is None:
            raise Fatal(NO_NPM)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCE / "package.json", folder)
        installed.unlink(missing_ok=True)
        waiting = folder / "npm-shrinkwrap.json"  # npm takes it for the lock file; ours says that all is done
        waiting.write_bytes(lock)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise Fatal(f"npm can't get the console's packages: {last[0]}. Check the network and `npm config list`")
        waiting.rename(installed)
    return folder / "node_modules"


def check() -> None:
    """Check the types. Raises `Fatal` when some are wrong; TypeScript has said which."""
    compiler = packages() / ".bin" / "tsc"
    if subprocess.run([compiler, "--project", SOURCE / "tsconfig.json"], cwd=ROOT).returncode:
        raise Fatal("the console's JavaScript has wrong types (see above)")


def vendor() -> None:
    """Copy the files, and write down what they are."""
    folder, lock = packages(), json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    listed: dict[str, Any] = {}
    for target, (package, source) in FILES.items():
        content = (folder / package / source).read_bytes()
        (ROOT / target).write_bytes(content)
        facts = lock[f"node_modules/{package}"]
        listed[target] = {
            "package": package,
            "version": facts["version"],
            "file": source,
            "integrity": facts["integrity"],
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    LIST.write_text(json.dumps(listed, indent=2) + "\n")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m scripts.console", description="The console's JavaScript.")
    parser.add_argument("what", choices=("check", "vendor"))
    with fatal_in_one_line("console"):
        {"check": check, "vendor": vendor}[parser.parse_args().what]()
        sys.stderr.write("console: done\n")


if __name__ == "__main__":
    main()
