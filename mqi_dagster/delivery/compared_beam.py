"""Delivered against planned for a whole beam: from its records, or from what its interpretation holds."""

from __future__ import annotations

from mqi_dagster.delivery.comparison import LayerRecorder
from mqi_dagster.delivery.comparison_figures import LayerComparison
from mqi_dagster.delivery.layer_samples import LayerSamples
from mqi_dagster.delivery.manifest import BeamEntry, LayerEntry
from mqi_dagster.delivery.planned_timeline import planned_timeline
from mqi_dagster.delivery.summary import InterpretedBeam
from mqi_dagster.delivery.verdict import DeliveryVerdict, judge, limits_of
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import PlanBeam
from mqi_dagster.settings import DeliveryLimits, Interpretation

_AS_RECORDED = Interpretation.model_validate({})


def compare_beam(entry: BeamEntry, plan_beam: PlanBeam, machine: Machine) -> tuple[LayerComparison, ...]:
    """Compare a delivered beam with its plan, from its records.

    Args:
        entry: The beam in the case's manifest.
        plan_beam: The same beam in the plan.
        machine: The machine that delivered it.

    Raises:
        DeliveryError: A record or machine plan is damaged, or is no longer that of the inventory.
        UnknownMachineError: A range code is unknown to the machine.
        ConfigurationError: The machine file does not cover the beam's energies.
    """
    return tuple(_compare(layer, plan_beam, machine) for layer in entry.layers)


def _compare(layer: LayerEntry, plan_beam: PlanBeam, machine: Machine) -> LayerComparison:
    planned = plan_beam.layer(layer.number)
    timeline = planned_timeline(layer, planned, machine, plan_beam.scan_mode)
    recorder = LayerRecorder(planned, timeline, machine)
    for _ in LayerSamples(layer, machine, _AS_RECORDED, recorder=recorder).chunks():
        pass
    return recorder.compared().figures


def verdict_of(
    interpreted: InterpretedBeam, check: DeliveryLimits, machines: Machines
) -> DeliveryVerdict | None:
    """What an interpretation says of the delivery, by the limits of now; None where it was not compared."""
    if interpreted.compared is None:
        return None
    machine = next((one for one in machines.all if one.id == interpreted.machine_id), None)
    return judge(interpreted.compared, limits_of(check, machine))
