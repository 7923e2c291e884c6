"""The command ``mqi`` and its groups."""

import logging
import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from mqi_dagster import __version__
from mqi_dagster.cli.alarms import alarms, notify
from mqi_dagster.cli.backup import backup, restore
from mqi_dagster.cli.case import case_app
from mqi_dagster.cli.checking import engine_app, reference, validate
from mqi_dagster.cli.cluster import cluster_app
from mqi_dagster.cli.course import course_app
from mqi_dagster.cli.doctor import doctor
from mqi_dagster.cli.exit_codes import ExitCode
from mqi_dagster.cli.gpu import gpu_app
from mqi_dagster.cli.logs import logs
from mqi_dagster.cli.model import model_app
from mqi_dagster.cli.people import audit_app, token_app, user_app
from mqi_dagster.cli.retention import retention
from mqi_dagster.cli.screen import output
from mqi_dagster.cli.segmentation import segmentation_app
from mqi_dagster.cli.simulate import simulate
from mqi_dagster.cli.site import demo, dev, init, service, stop, web
from mqi_dagster.cli.top import top
from mqi_dagster.errors import MqiError

app = typer.Typer(
    name="mqi",
    help="Delivered proton beams become verified DICOM RT Doses.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_SERVICES = (demo, init, dev, web, stop, service, backup, restore, retention)
_LOOKS = (top, logs, doctor, validate, alarms, notify)
for _command in (*_SERVICES, *_LOOKS):
    app.command()(_command)
app.command("simulate-delivery")(simulate)
app.command("settings-reference")(reference)
app.add_typer(engine_app, name="engine")
app.add_typer(case_app, name="case")
app.add_typer(course_app, name="course")
app.add_typer(segmentation_app, name="segmentation")
app.add_typer(cluster_app, name="cluster")
app.add_typer(gpu_app, name="gpu")
app.add_typer(model_app, name="model")
app.add_typer(user_app, name="user")
app.add_typer(token_app, name="token")
app.add_typer(audit_app, name="audit")


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mqi_dagster {__version__}")
        raise typer.Exit()


@app.callback()
def _mqi(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version, and end."),
    ] = False,
) -> None:
    """Delivered proton beams become verified DICOM RT Doses."""


def main() -> None:
    """Run the command; an expected error is one line on standard error and exit code 1.

    Whatever it or a service that it starts writes is its owner's alone, where nothing else is said.
    """
    os.umask(os.umask(0o077) | 0o077)
    # What libraries log of their own tries is said once, by the error at their end.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()
    except MqiError as error:
        _end(str(error))
    except Exception as error:
        reason = _database_reason(error)
        if reason is None:
            raise
        _end(f"a database of the site cannot be used: {reason}")


def _end(message: str) -> NoReturn:
    output(stderr=True).print(Text(f"mqi: {message}", style="red"), soft_wrap=True)
    sys.exit(ExitCode.FAILED)


def _database_reason(error: Exception) -> str | None:
    """What a database said, without the statement; None where the error is of no database."""
    if (module := sys.modules.get("sqlalchemy.exc")) is None or not isinstance(error, module.SQLAlchemyError):
        return None
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
