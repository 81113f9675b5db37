"""Programs whose stderr is a terminal, and what is left to see there."""

import os
import pty
import subprocess
import sys


def on_a_terminal(code, *arguments, **environment):
    """Run Python with a terminal as stderr; return what it printed, and what the terminal got."""
    ours, theirs = pty.openpty()
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": path} | environment
    with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        got = []
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # Linux says so where all have closed it
                break
            if not part:
                break
            got.append(part)
        printed = process.stdout.read().decode()
    os.close(ours)
    assert process.returncode == 0, b"".join(got).decode()
    return printed, b"".join(got).decode()


def left(got):
    """The lines that are left to see of what a terminal got."""
    lines, at = [[]], 0
    for sign in got:
        if sign == "\n":
            lines.append([])
            at = 0
        elif sign in "\r\b":
            at = 0 if sign == "\r" else max(0, at - 1)
        else:
            lines[-1][at : at + 1] = [sign]
            at += 1
    return [text for line in lines if (text := "".join(line).rstrip())]
