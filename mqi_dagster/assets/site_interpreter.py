"""A site's own interpreter in place of ours: it sees one beam's deliveries and the plan, and nothing else."""

import shutil
import tempfile
from pathlib import Path

from mqi_dagster.assets.beam import BeamAtWork, require_unchanged
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.execution.site_command import run_site_command
from mqi_dagster.resources.site import Site


def run_site_interpreter(site: Site, beam: BeamAtWork, output: Path) -> None:
    """Run the command of `interpretation.command` on a copy of one beam's inputs.

    Its placeholders are ``{input}`` (a case folder with the plan and this beam's deliveries), ``{plan}``,
    ``{beam_number}`` and ``{output}``.

    Raises:
        CommandError: It failed, hung, or left nothing in ``{output}``.
    """
    command = site.settings.interpretation.command
    if command is None:
        raise ConfigurationError("interpretation.command is not set")
    site.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.work, prefix="interpretation.") as folder:
        case_folder = Path(folder) / "case"
        case_folder.mkdir()
        plan = shutil.copyfile(require_unchanged(beam.manifest.plan, "RT plan"), case_folder / "RP.dcm")
        for delivery in beam.manifest.deliveries:
            if delivery.beam_number == beam.number:
                shutil.copytree(delivery.folder, case_folder / delivery.folder.name)
        run_site_command(
            command,
            {"input": case_folder, "plan": plan, "beam_number": str(beam.number), "output": output},
            wanted=output,
            scrubber=Scrubber([*beam.plan.identifiers, str(site.work)]),
        )
