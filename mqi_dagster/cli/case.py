"""``mqi case …``: what a person does with one case."""

import typer

case_app = typer.Typer(help="Check, run and look at cases.", no_args_is_help=True)


@case_app.callback()
def _group() -> None:
    """Check, run and look at cases."""
