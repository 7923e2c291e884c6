"""Notices leave the house: every channel tells them in order, and tries again until they are taken."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import dagster as dg

from mqi_dagster.backoff import Backoff
from mqi_dagster.errors import MqiError, PartlyTakenError
from mqi_dagster.execution.locks import hold
from mqi_dagster.ledger.notices import ChannelState, Notice
from mqi_dagster.lifecycle.run_requests import SECONDS_PER_TICK
from mqi_dagster.moments import in_zone
from mqi_dagster.notify.message import Channel, Message
from mqi_dagster.resources.composed import NotifierResource
from mqi_dagster.resources.site import Site

_AT_ONCE = 50


def notifications(interval: int) -> dg.SensorDefinition:
    """The sensor that tells alarms and conclusions to the channels of the settings."""

    @dg.sensor(
        name="notifications",
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells alarms and concluded cases by webhook and e-mail, each at least once.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site], notifier: NotifierResource
    ) -> dg.SkipReason:
        delivered = 0
        for channel in notifier.open():
            sent, failure = notify(site, channel)
            delivered += sent
            if failure is not None:
                context.log.error("%s: %s", channel.name, failure)
        return dg.SkipReason(f"{delivered} notices sent" if delivered else "nothing to send")

    return sensor


def notify(site: Site, channel: Channel) -> tuple[int, str | None]:
    """Tell what a channel has to tell now, for some seconds at most; nothing while another process does.

    Returns:
        How many notices were taken, and why the next one was not, or whom the last one did not reach.
    """
    with _one_at_a_time(site, channel) as mine:
        return _notify(site, channel) if mine else (0, None)


@contextmanager
def _one_at_a_time(site: Site, channel: Channel) -> Iterator[bool]:
    """Whether this process is the one that tells; the service `watch` and the sensor may both want to."""
    try:
        lock = hold(site.settings.paths.state / f"notify-{channel.name}.lock", tries=1)
    except OSError:
        # On a full disk a notice may come twice, which is better than not at all.
        yield True
        return
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _notify(site: Site, channel: Channel) -> tuple[int, str | None]:
    wanted = {event.value for event in site.settings.notifications.told_by(channel.name)}
    state = site.ledger.notices.channel(channel.name)
    # What is not told at all says nothing about whom the last one has missed.
    missed = state.failure if state.tries == 0 else ""
    started, sent = time.monotonic(), 0
    for notice in site.ledger.notices.due(channel.name, _AT_ONCE, wanted):
        if time.monotonic() - started > SECONDS_PER_TICK:
            break
        try:
            channel.send(message_of(site, notice))
            missed = ""
        except PartlyTakenError as error:
            missed = error.message
        except MqiError as error:
            site.ledger.notices.mark_failed(channel.name, error.message, _wait(site, state))
            return sent, error.message
        sent += 1
        site.ledger.notices.mark_notified(channel.name, notice, missed=missed)
    return sent, missed or None


def _wait(site: Site, state: ChannelState) -> timedelta:
    limits = site.settings.notifications
    backoff = Backoff(limits.retry_seconds, limits.retry_maximum_seconds)
    return timedelta(seconds=backoff.seconds(state.tries + 1))


def message_of(site: Site, notice: Notice) -> Message:
    """A notice as it is told."""
    return Message(
        id=notice.id,
        site=site.settings.site.name,
        event=notice.event.value,
        kind=notice.kind,
        subject=notice.subject,
        text=in_zone(notice.text, site.timezone),
        happened_at=notice.happened_at.astimezone(site.timezone),
        state=notice.state,
    )
