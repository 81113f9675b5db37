"""Running the command line."""

from typer.testing import CliRunner

import halfspace.cli


def call(*arguments):
    return CliRunner().invoke(halfspace.cli.app, [str(argument) for argument in arguments])


def succeed(*arguments):
    """Run a command that must succeed, and return its stdout, which must have no colour codes."""
    result = call(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "\x1b" not in result.output
    return result.stdout


def fail(code, *arguments):
    """Run a command that must fail with this code, and return its one line of error."""
    result = call(*arguments)
    assert result.exit_code == code, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.output.splitlines() if line.startswith("halfspace: error: ")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]
