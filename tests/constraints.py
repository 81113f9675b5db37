"""The versions in constraints.txt, which were tested together, beside the newest ones that pip would install.

    .venv/bin/python tests/constraints.py           # prints which differ, and then exits with 1
    .venv/bin/python tests/constraints.py --write   # records the newest ones

Record them with the oldest Python that is served: what supports it has wheels for later ones, too.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "constraints.txt"
OLDEST = (3, 11)
HEAD = """\
# Versions that were tested together, of all that `pip install ".[test]"` installs on Linux.
# Renew them with Python 3.11: .venv/bin/python tests/constraints.py --write
"""


def canonical(name):
    """The one spelling of a package's name among those that pip holds to be equal."""
    return re.sub(r"[-_.]+", "-", name).lower()


def recorded(text):
    """Versions by name, of a file whose lines are name==version or comments."""
    pins = (line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    return {canonical(name): version for name, version in pins}


def newest(report):
    """Versions by name, of what a report of pip says it would install, without the project itself.

    A local part, such as that of torch 2.13.0+cpu, says where a build came from. It is left out, so that the version is
    found on other machines.
    """
    found = {}
    for package in report["install"]:
        if not package["is_direct"]:
            metadata = package["metadata"]
            found[canonical(metadata["name"])] = metadata["version"].partition("+")[0]
    return found


def differences(before, after):
    """One line for each recorded package that would be installed in another version.

    Packages that are not recorded come with a changed version of another, or with another platform.
    """
    return [
        f"{name} {version} -> {after[name]}"
        for name, version in sorted(before.items())
        if after.get(name, version) != version
    ]


def resolve():
    """The report of pip on what the tests need, if no version were recorded."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["pip", "install", "-qq", "--dry-run", "--ignore-installed", "--report", str(report), ".[test]"]
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True, stderr=subprocess.PIPE, text=True)
        return json.loads(report.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the newest versions")
    options = parser.parse_args()
    if options.write and sys.version_info[:2] != OLDEST:
        parser.error(f"record versions with Python {OLDEST[0]}.{OLDEST[1]}, not {sys.version.split()[0]}")
    try:
        found = newest(resolve())
    except subprocess.CalledProcessError as error:
        parser.error(f"pip found no versions to install: {error.stderr.strip()}")
    if options.write:
        FILE.write_text(HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(found.items())))
        return 0
    changed = differences(recorded(FILE.read_text()), found)
    print("\n".join(changed) or f"{FILE.name} records the newest versions.")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
