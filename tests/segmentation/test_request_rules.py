"""What a request is: who may ask, what is refused and why, that it is one however often it is asked for."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from mqi_dagster.errors import InputError, MqiError, NotAllowedError, UnknownSeriesError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.segmentation_request import RequestState, find_series
from mqi_dagster.people.rights import Actor, Right
from tests.courses.made_objects import Made
from tests.imaging.models.model_folders import card, write_card
from tests.segmentation.on_request_site import DOCTOR, PATIENT, OnRequestSite, images
from tests.segmentation.pacs_stand_in import StandIn

ROLES = ("PRE", "FIRST", "SECOND", "THIRD")
VIEWER = Actor("viewer", frozenset({Right.LOOK}), "pages")


@pytest.fixture
def site(site: OnRequestSite) -> OnRequestSite:
    """Its services put runs into the queue, and nobody takes them out."""
    site.services.only_queued = True
    inputs = [{"role": role} for role in ROLES]
    argv = ["/bin/true", "{inputs}", "{output}"]
    folder = site.folder / "models"
    write_card(folder / "four", card("command", {"argv": argv}, name="four", inputs=inputs))
    of_mr = [{"role": "T1", "series": "T1.*"}, {"role": "T2", "series": "T2.*"}]
    write_card(folder / "two", card("command", {"argv": argv}, name="two", modality="MR", inputs=of_mr))
    return site


def phases(pacs: StandIn, count: int = 4, **changes: object) -> list[str]:
    """Series of one study, one a minute, the last one first."""
    taken = [f"10{minute:02d}00" for minute in range(count)]
    return [
        pacs.store(*images(20 + number, taken=taken[count - 1 - number], **changes)[:1])
        for number in range(count)
    ]


def refusal(site: OnRequestSite, *series: str, model: str = "rules_ct") -> str:
    with pytest.raises(InputError) as found:
        site.ask(*series, model=model)
    assert site.runs() == [] and site.site.ledger.arrivals.all() == []
    return found.value.message


def test_what_a_model_does_not_take_is_named_before_anything_runs(site: OnRequestSite, pacs: StandIn) -> None:
    five = phases(pacs, 5)
    four = five[:4]
    assert refusal(site, *four[:3], model="four") == (
        "the model four takes 4 series (PRE, FIRST, SECOND, THIRD), not 3"
    )
    assert refusal(site, *five, model="four") == (
        "the model four takes 4 series (PRE, FIRST, SECOND, THIRD), not 5"
    )
    assert refusal(site, *four[:3], four[0], model="four") == "one series is named twice"
    other = pacs.store(*images(20, made=Made(8), taken="100100")[:1])
    assert refusal(site, *four[:3], other, model="four") == (
        "the series are not all of one study of one patient"
    )
    magnetic = pacs.store(*images(30, modality="MR")[:1])
    assert refusal(site, magnetic) == "the model rules_ct is for CT, and a series is 'MR'"
    assert refusal(site, four[0], magnetic, model="two") == ("the model two is for MR, and a series is 'CT'")
    assert refusal(site, magnetic, pacs.store(*images(31, modality="MR")[:1]), model="two") == (
        "no series is T1 by the Series Description"
    )
    together = pacs.store(*images(32, taken="100300")[:1])
    assert refusal(site, *four[:3], together, model="four").startswith("which series came first")


def test_a_model_that_cannot_be_asked_for_is_named(site: OnRequestSite, pacs: StandIn) -> None:
    series = pacs.store(*images()[:1])
    assert refusal(site, series, model="none") == (
        "there is no model 'none' to ask for; `mqi model list` names those that are"
    )
    assert refusal(site, series, model="brain_mr").startswith(
        "the model brain_mr cannot be used: weights are missing: "
    )
    site.change({"on_request": {"models": ["four"]}})
    assert refusal(site, series).startswith("there is no model 'rules_ct'")


@pytest.mark.parametrize("name", ["*", "../../system", "", "a" * 65, "%2e%2e", "ü", "11111111-22222222"])
def test_what_is_no_series_of_the_pacs_leads_nowhere(site: OnRequestSite, pacs: StandIn, name: str) -> None:
    with pytest.raises(UnknownSeriesError):
        site.ask(name)
    assert all(one in ("GET /series/11111111-22222222",) for one in pacs.asked)
    assert site.runs() == []
    with pytest.raises(InputError, match="there is no request"):
        site.standing(name)


def test_roles_are_told_by_the_time_of_acquisition_whatever_the_order(
    site: OnRequestSite, pacs: StandIn
) -> None:
    four = phases(pacs)
    first = site.ask(*four, model="four")
    again = site.ask(*reversed(four), model="four")
    assert again.key == first.key and len(site.runs()) == 1
    # Who asked last has named another series first.
    assert (first.series, again.series) == (tuple(four), tuple(reversed(four)))


def test_only_who_may_ask_does_and_each_request_is_in_the_audit(site: OnRequestSite, pacs: StandIn) -> None:
    series = pacs.store(*images()[:1])
    with pytest.raises(NotAllowedError, match=r"needs the right 'request'"):
        site.ask(series, actor=VIEWER)
    assert pacs.asked == [], "not even whether there is such a series is told"
    found = site.ask(series)
    rows = [
        (row.actor, row.action, row.subject, row.outcome.value)
        for row in reversed(site.site.ledger.audit.newest(10))
    ]
    asked = Action.SEGMENTATION_REQUESTED
    assert rows == [
        ("viewer", asked, "rules_ct", "refused"),
        ("doctor", asked, found.key, "begun"),
        ("doctor", asked, found.key, "done"),
    ]
    assert site.ask(series, actor=Actor("second", DOCTOR.rights, "pages")).requested_by == "second"


def test_identity_is_shown_to_who_may_see_it_alone(site: OnRequestSite, pacs: StandIn) -> None:
    pacs.store(*images(), *images(30, modality="MR", made=Made(8)))
    (ct,) = find_series(site.site, DOCTOR, modality="CT")
    assert (ct.patient_id, ct.patient_name, ct.description, ct.images) == ("", "", "Thorax", 24)
    for actor, text in ((VIEWER, ""), (DOCTOR, "Doe")):
        with pytest.raises(NotAllowedError):
            find_series(site.site, actor, text)
    physician = Actor("physician", DOCTOR.rights | {Right.IDENTITY}, "pages")
    assert [one.patient_name for one in find_series(site.site, physician, "doe")] == ["Doe^Jane"]
    assert len(find_series(site.site, physician)) == 2
    actions = [row.action for row in site.site.ledger.audit.newest(10) if row.outcome.value == "done"]
    assert actions == [Action.IDENTITY_READ] * 2


def test_a_request_whose_launch_was_lost_is_repaired_by_the_sensor_and_never_doubled(
    site: OnRequestSite, pacs: StandIn
) -> None:
    series = pacs.store(*images()[:1])
    site.services.away = True
    found = site.ask(series)
    assert (found.state, site.runs()) == (RequestState.PENDING, [])
    assert site.tick(launch=False) == [found.key], "and the tick crashes"
    assert site.tick(launch=False) == [], "whoever has taken it may still launch it"
    site.site.ledger.arrivals.release(found.key)
    site.services.away = False
    # The sensor and a person at once: one run.
    assert site.tick(launch=False) == [found.key]
    assert site.ask(series).state is RequestState.PENDING and site.runs() == []
    site.site.ledger.arrivals.release(found.key)
    assert site.ask(series).run_id == site.runs()[0].run_id
    assert site.tick() == [] and len(site.runs()) == 1
    assert site.runs()[0].tags["dagster/run_key"].startswith(f"{found.key}:")


def test_a_cancelled_request_is_tried_again_when_it_is_asked_for_again(
    site: OnRequestSite, pacs: StandIn
) -> None:
    series = pacs.store(*images()[:1])
    first = site.ask(series)
    site.instance.report_run_canceled(site.runs()[0])
    cancelled = site.standing(first.key)
    assert (cancelled.state, cancelled.reason) == (RequestState.FAILED, "cancelled by an operator")
    assert site.tick() == [], "by itself it begins no more"
    site.services.only_queued = False
    again = site.ask(series)
    assert again.key == first.key and len(site.runs()) == 2


def test_a_late_image_makes_the_image_set_anew_once_the_run_before_has_ended(
    site: OnRequestSite, pacs: StandIn
) -> None:
    whole = images()
    series = pacs.store(*whole[:10])
    first = site.ask(series)
    assert site.tick() == []
    pacs.store(*whole[10:])
    pacs.stable(series)
    assert site.tick() == [], "its run is still queued, and reads what is there then"
    assert site.ask(series).run_id == first.run_id
    site.instance.report_run_canceled(site.runs()[0])
    assert site.standing(first.key).state is not RequestState.COMPLETED
    assert site.tick(launch=False) == [first.key]
    # Nothing changes any more.
    site.site.ledger.arrivals.mark_requested(first.key, site.site.ledger.arrivals.all()[0].fingerprint)
    pacs.stable(series)
    assert site.tick(launch=False) == []


def test_new_series_of_a_kind_are_segmented_by_themselves(site: OnRequestSite, pacs: StandIn) -> None:
    rule = {"model": "rules_ct", "modality": "CT", "description": "thorax.*"}
    site.change({"on_request": {"by_itself": [rule, {"model": "four", "modality": "CT"}]}})
    pacs.stable(pacs.store(*images(9)[:1]))
    assert site.tick() == [], "what was there before is not new"
    new = pacs.store(*images(10)[:1])
    for series in (new, pacs.store(*images(11, SeriesDescription="Head")[:1])):
        pacs.stable(series)
    pacs.stable(pacs.store(*images(12, modality="MR")[:1]))
    (key,) = site.tick(launch=False)
    found = site.standing(key)
    assert (found.series, found.requested_by, found.model) == ((new,), "system", "rules_ct")


def test_a_pacs_that_is_away_keeps_no_request_from_its_run(site: OnRequestSite, pacs: StandIn) -> None:
    series = pacs.store(*images()[:1])
    site.services.away = True
    key = site.ask(series).key
    pacs.fails["GET /changes.*"] = [503] * 3
    assert site.tick(launch=False) == [key]
    site.site.ledger.arrivals.release(key)
    pacs.fails.clear()
    pacs.stable(series)
    site.tick(launch=False)
    site.site.ledger.arrivals.release(key)
    pacs.stable(series)
    pacs.fails["GET /series/.*"] = [503]
    assert site.tick(launch=False) == [key]
    assert site.cursor is None or site.tick(launch=False) == [], "the change is looked at again"


def test_without_a_pacs_nothing_can_be_asked_for(site: OnRequestSite, tmp_path: Path) -> None:
    file = site.folder / "mqi.yaml"
    content = yaml.safe_load(file.read_text())
    del content["on_request"]["orthanc"]
    file.write_text(yaml.safe_dump(content))
    site.reopen()
    with pytest.raises(MqiError, match=r"there is no PACS: on_request\.orthanc or"):
        site.ask("1")
    assert site.tick() == [] and "names no PACS" in site.said


def test_a_full_queue_leaves_a_request_to_the_sensor(
    site: OnRequestSite, pacs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqi_dagster.lifecycle.run_requests.QUEUED_AT_MOST", 1)
    first, second = (site.ask(pacs.store(*images(number)[:1])) for number in (10, 11))
    assert [run.tags["dagster/partition"] for run in site.runs()] == [first.key]
    assert site.tick(launch=False) == []
    site.instance.report_run_canceled(site.runs()[0])
    assert site.tick(launch=False) == [second.key]


def test_results_that_retention_has_removed_are_made_anew_when_asked_for(
    site: OnRequestSite, pacs: StandIn
) -> None:
    series = pacs.store(*images()[:1])
    first = site.ask(series)
    (run,) = site.runs()
    site.instance.report_run_canceled(run)
    site.site.ledger.arrivals.mark_results_removed(first.key)
    site.instance.delete_dynamic_partition("image_set", first.key)
    assert site.ask(series).key == first.key
    assert len(site.runs()) == 2
    assert site.instance.has_dynamic_partition("image_set", first.key)
    assert site.runs()[1].status is dg.DagsterRunStatus.QUEUED
    assert PATIENT.patient_id not in str(site.runs()[1].tags)
