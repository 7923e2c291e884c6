"""``mqi alarms``: what a person should know now; ``mqi notify``: do notices reach their receivers?"""

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer
from rich.text import Text

from mqi_dagster.cli.options import JsonOption, SiteOption
from mqi_dagster.cli.screen import output, plain_table, print_json
from mqi_dagster.errors import ConfigurationError, MqiError
from mqi_dagster.moments import in_zone, local
from mqi_dagster.operations.sites import DEFAULT_SITE, open_site

if TYPE_CHECKING:
    from mqi_dagster.notify.message import Channel
    from mqi_dagster.operations.alarms import Listed


def alarms(
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
    every: Annotated[bool, typer.Option("--all", help="Also those that are cleared.")] = False,
    dismiss: Annotated[
        int | None, typer.Option(help="Clear the alarm of this number; a state that goes on raises it anew.")
    ] = None,
) -> None:
    """List what a person should know now: first what does not work at this moment, then the newest."""
    from mqi_dagster.operations import alarms as operations
    from mqi_dagster.people.rights import Actor

    opened = open_site(site)
    if dismiss is not None:
        operations.dismiss(opened, Actor.of_this_account(), dismiss)
    found = operations.alarms_now(opened, every=every)
    if as_json:
        print_json([asdict(alarm) for alarm in found])
    else:
        _show(found, opened.timezone)


def _show(found: "list[Listed]", zone: ZoneInfo) -> None:
    console = output()
    if not found:
        console.print("no alarm")
        return
    table = plain_table("number", "alarm", "about", "since", "times", "cleared")
    for alarm in found:
        cleared = local(alarm.cleared_at, zone) if alarm.cleared_at is not None else ""
        style = "dim" if cleared else "red"
        since = local(alarm.first_at, zone) if alarm.first_at is not None else ""
        values = (_number(alarm), alarm.kind.value, alarm.subject, since, str(alarm.count), cleared)
        table.add_row(*(Text(value) for value in values), style=style)
    console.print(table)
    for alarm in found:
        console.print(Text(f"{_number(alarm)}: {in_zone(alarm.text, zone)}"), soft_wrap=True)


def _number(alarm: "Listed") -> str:
    return "now" if alarm.id is None else str(alarm.id)


def notify(
    site: SiteOption = DEFAULT_SITE,
    test: Annotated[bool, typer.Option("--test", help="Send a test message by every channel.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether notices reach their receivers, or send a test message; exit 1 where it is not taken."""
    from mqi_dagster.notify.message import channels_of

    opened = open_site(site)
    channels = list(channels_of(opened.settings.notifications))
    if not channels:
        raise ConfigurationError("nobody is told anything: set notifications.webhook or notifications.mail")
    if test:
        _test(opened.settings.site.name, opened.timezone, channels, as_json)
        return
    states = {channel.name: opened.ledger.notices.channel(channel.name) for channel in channels}
    if as_json:
        print_json(
            [
                {"channel": name, "trouble": one.trouble or None, "failing_since": one.failing_since}
                for name, one in states.items()
            ]
        )
        return
    for name, state in states.items():
        words = f"{name}: {in_zone(state.trouble, opened.timezone) or 'works'}"
        output().print(Text(words, style="red" if state.failing_since else ""), soft_wrap=True)


def _test(name: str, zone: ZoneInfo, channels: "list[Channel]", as_json: bool) -> None:
    from mqi_dagster.notify.message import Message

    message = Message(
        id=0,
        site=name,
        event="test",
        kind="",
        subject="",
        text="This is a test of the notifications of this site.",
        happened_at=datetime.now(zone),
    )
    answers: list[dict[str, str | bool]] = []
    for channel in channels:
        try:
            answers.append({"channel": channel.name, "taken": True, "answer": channel.send(message)})
        except MqiError as error:
            answers.append({"channel": channel.name, "taken": False, "answer": error.message})
    if as_json:
        print_json(answers)
    for one in answers if not as_json else ():
        style = "" if one["taken"] else "red"
        output().print(Text(f"{one['channel']}: {one['answer']}", style=style), soft_wrap=True)
    if not all(one["taken"] for one in answers):
        raise typer.Exit(1)
