"""``mqi init``, ``dev`` and ``stop``: a site and its services."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from mqi_dagster.cli.options import JsonOption, SiteOption
from mqi_dagster.cli.screen import output, print_json
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.operations.service_locks import Service
from mqi_dagster.operations.sites import (
    DEFAULT_SITE,
    SETTINGS_NAME,
    SITE_VARIABLE,
    local_zone,
    open_site,
    require_site,
    site_to_stop,
)

if TYPE_CHECKING:
    from mqi_dagster.operations.running import Running
    from mqi_dagster.operations.services import Keeper
    from mqi_dagster.resources.site import Site

# What imports Dagster is imported by the command that needs it: `mqi --help` answers at once.

_WATCH_SECONDS = 1.0


def init(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the site; made if it is absent.", envvar=SITE_VARIABLE)
    ] = DEFAULT_SITE,
    timezone: Annotated[
        str | None,
        typer.Option(help="IANA zone of the machines' times, for example Asia/Seoul; else this computer's."),
    ] = None,
    histories: Annotated[float | None, typer.Option(help="Monte Carlo histories per beam.")] = None,
    new_secret: Annotated[
        bool,
        typer.Option(
            "--new-secret",
            help="The secret is lost for good: every case gets another name, and is made anew.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a folder a site: commented settings, secret, machine files, Dagster's instance.

    A second call completes what is missing and changes nothing that is there.
    """
    from mqi_dagster.operations.site_folder import initialise

    console = output()
    present = (folder / SETTINGS_NAME).exists()
    if present:
        _require_same(folder, {"site.timezone": timezone, "engine.histories": histories})
    zone = timezone or local_zone()
    values: dict[str, str | float] = {"site.timezone": zone}
    if histories is not None:
        values["engine.histories"] = histories
    made = initialise(folder, values, new_secret=new_secret)
    if as_json:
        zone = require_site(folder)[1].site.timezone
        print_json({"folder": str(folder), "made": made, "timezone": zone})
        return
    for line in made:
        console.print(f"made {escape(line)}")
    if not present:
        note = "" if timezone else " (this computer's; change site.timezone if the machines have another)"
        console.print(f"time zone of the machines: {escape(zone)}{note}")
    if not made:
        console.print(f"{escape(str(folder))} is complete; nothing to do")
    console.print(f"next: mqi doctor --site {escape(str(folder))}; mqi dev --site {escape(str(folder))}")


def _require_same(folder: Path, wanted: dict[str, str | float | None]) -> None:
    """A site that is there is completed and not changed: what asks for something else is refused."""
    settings = require_site(folder)[1]
    there = {"site.timezone": settings.site.timezone, "engine.histories": settings.engine.histories}
    other = [f"{key} is {there[key]}" for key, value in wanted.items() if value not in (None, there[key])]
    if other:
        raise ConfigurationError(
            f"{folder} is a site already: change its {SETTINGS_NAME} ({', '.join(other)} there), or name"
            " another folder"
        )


def dev(
    site: SiteOption = DEFAULT_SITE,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the pages answer.")] = False,
    port: Annotated[
        int | None,
        typer.Option(help="Port of the pages, not ui.port; 0: a free one.", min=0, max=65535),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start the services of a site: its pages, Dagster's pages, daemon and code location, and the watch."""
    from mqi_dagster.operations.running import web_address
    from mqi_dagster.operations.services import Keeper, Services, start_services, stop_services

    console = output(stderr=as_json)
    file, settings = require_site(site)
    services = Services(file, settings)

    def tell(running: "Running", already: str | None = None) -> None:
        """Where the pages are, and what more is to be said where they ran before."""
        inbox, logs = str(settings.paths.inbox), str(services.logs)
        if as_json:
            ours = web_address(settings, running)
            facts = {"pages": ours, "dagster": running.pages.address, "inbox": inbox, "logs": logs}
            print_json({**facts, "already_running": already is not None})
            return
        if already is not None:
            console.print(f"already running: {running.pages.address}{already}")
        show_way_in(open_site(site), running, console)
        if already is None:
            console.print(f"Dagster's pages: {running.pages.address}")
            console.print(f"inbox: {escape(inbox)}")
            console.print(f"logs:  {escape(logs)}")

    before = services.recorded()
    if before is not None and not before.dead():
        unheard = "" if port in (None, before.port) else "; --port counts once they were stopped"
        tell(before, unheard)
        return
    with console.status("starting the code location, the daemon and all pages"):
        running = start_services(services, settings, port)
    if running.same_start(before):
        again = ", ".join(before.dead()) if before is not None else ""
        tell(running, f"; started again: {again}")
        return
    tell(running)
    if detach:
        if not as_json:
            console.print(f"end:   mqi stop --site {escape(str(site))}")
        return
    console.print("Ctrl-C ends them")
    try:
        with ended_by_any_signal():
            _watch(Keeper(services, running, lambda words: console.print(Text(words))))
        console.print("ended by `mqi stop`")
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        if running.same_start(services.recorded()):
            stop_services(services, settings)


def show_way_in(site: "Site", running: "Running", console: Console) -> None:
    """Say where our own pages are, and how whoever has started them signs in."""
    from mqi_dagster.operations.people import LINK_VALID, way_in
    from mqi_dagster.operations.running import web_address

    if not running.web_port:
        return
    address, found = web_address(site.settings, running), way_in(site)
    console.print(f"pages: [bold]{address}[/]", soft_wrap=True)
    if found.code:
        link = Text(f"{address}/login/link?code={found.code}", style="bold")
        minutes = LINK_VALID // timedelta(minutes=1)
        console.print(Text("sign in: ") + link, soft_wrap=True)
        console.print(f"         works once, within {minutes} minutes, as {found.name}")
    elif found.name:
        console.print(f"sign in as {found.name}")
    else:
        console.print("sign in as one of the accounts of `mqi user list`; `mqi user link NAME` makes a link")


def _watch(keeper: "Keeper") -> None:
    """Return when somebody else has ended the services; InfrastructureError where one died by itself."""
    while keeper.check():
        time.sleep(_WATCH_SECONDS)


@contextmanager
def ended_by_any_signal() -> Iterator[None]:
    """Within it, TERM and HUP end the command as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """End a site's services and the runs in their hands; a later start continues those."""
    from mqi_dagster.operations.services import Services, stop_services

    console = output(stderr=as_json)
    file, settings, note = site_to_stop(site)
    if note:
        console.print(escape(note))
    with console.status("ending the services and their runs"):
        ended = stop_services(Services(file, settings), settings)
    if as_json:
        print_json({"ended": ended})
    else:
        console.print("ended" if ended else "nothing was running")


def service(
    name: Annotated[Service, typer.Argument(help="Which service this process becomes.")],
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Become one service of a site, in the foreground; for systemd (docs/production.md), not for people."""
    from mqi_dagster.operations.services import become_service

    become_service(name, *require_site(site))


def web(
    site: SiteOption = DEFAULT_SITE,
    port: Annotated[int | None, typer.Option(help="In place of web.port.", min=1, max=65535)] = None,
) -> None:
    """Serve the pages of a site in the foreground: worklist, live board, cases and courses."""
    from mqi_dagster.operations.services import become_service

    become_service(Service.WEB, *require_site(site), port)


def demo(
    site: Annotated[
        Path, typer.Option("--site", help="Folder of the demo's site; MQI_SITE does not name it.")
    ] = Path("site-demo"),
    timeout: Annotated[
        float, typer.Option(help="Seconds without any progress until it explains what is stuck.", min=1)
    ] = 280.0,
) -> None:
    """Carry a generated case of 3 beams from the inbox to its RT Doses, and leave the pages running.

    The site is made if it is absent. A second call finds the case done.
    """
    from mqi_dagster.cli.demo import run_demo

    console = output()
    run_demo(site, timeout, console)
