"""The command ``mqi`` and its groups."""

import sys

import typer
from rich.console import Console
from rich.text import Text

from mqi_dagster.cli.alarms import alarms, notify
from mqi_dagster.cli.backup import backup, restore
from mqi_dagster.cli.case import case_app
from mqi_dagster.cli.checking import engine_app, reference, validate
from mqi_dagster.cli.cluster import cluster_app
from mqi_dagster.cli.doctor import doctor
from mqi_dagster.cli.gpu import gpu_app
from mqi_dagster.cli.retention import retention
from mqi_dagster.cli.simulate import simulate
from mqi_dagster.cli.site import demo, dev, init, service, stop
from mqi_dagster.cli.top import top
from mqi_dagster.errors import MqiError

app = typer.Typer(
    name="mqi",
    help="Delivered proton beams become verified DICOM RT Doses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_SERVICES = (demo, init, dev, stop, service, backup, restore, retention)
_LOOKS = (top, doctor, validate, alarms, notify)
for _command in (*_SERVICES, *_LOOKS):
    app.command()(_command)
app.command("simulate-delivery")(simulate)
app.command("settings-reference")(reference)
app.add_typer(engine_app, name="engine")
app.add_typer(case_app, name="case")
app.add_typer(cluster_app, name="cluster")
app.add_typer(gpu_app, name="gpu")


def main() -> None:
    """Run the command; an expected error is one line on standard error and exit code 1."""
    try:
        app()
    except MqiError as error:
        Console(stderr=True).print(Text(f"mqi: {error}", style="red"), soft_wrap=True)
        sys.exit(1)
