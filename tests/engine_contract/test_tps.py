"""The TPS file: every key written on purpose, nothing swallowed when read."""

from __future__ import annotations

import json

import pytest

from mqi_dagster.engine_contract.beam_tps import EnginePaths, tps_for_beam
from mqi_dagster.engine_contract.tps import parse_tps, render
from mqi_dagster.engine_contract.tps_keys import TpsFile
from mqi_dagster.errors import EngineInputError
from mqi_dagster.machine import Machines
from mqi_dagster.settings import Engine, EngineProfile, built_in_profiles

PATHS = EnginePaths(
    "/w/job 1/Log_csv",
    "/w/job 1/Log_csv/plan",
    "/w/job 1/Log_csv/log",
    "/w/job 1/Dose",
    "/w/job 1/Log_csv/beam_model.json",
)

MOQUI_FILE = """\
GPUID 3
RandomSeed -1932780356
UseAbsolutePath true
TotalThreads -1
MaxHistoriesPerBatch 10000000
Verbosity 0

ParentDir /w/job 1/Log_csv
DicomPath /w/job 1/Log_csv/plan
DicomDir plan
logFilePath /w/job 1/Log_csv/log

GantryNum 2

UsingPhantomGeo true
TwoCentimeterMode true
PhantomDimX 400
PhantomDimY 400
PhantomDimZ 400
PhantomUnitX 1
PhantomUnitY 1
PhantomUnitZ 1
PhantomPositionX -200
PhantomPositionY -200
PhantomPositionZ -380

Scorer Dose
SupressStd true
ReadStructure false

SourceType FluenceMap
SimulationType perBeam
BeamNumbers 1
ParticlesPerHistory 1.0

ScoreToCTGrid true
OutputDir /w/job 1/Dose
OutputFormat raw
OverwriteResults true
"""


def engine(**changes: object) -> Engine:
    return Engine.model_validate(changes)


def moqui_tps(machines: Machines, gpu: int = 3, **changes: object) -> TpsFile:
    profile = built_in_profiles()["moqui"].model_copy(update=changes)
    return tps_for_beam(engine(), profile, machines.named("G2"), 1.0, (gpu,), PATHS)


def test_moqui_gets_every_key_it_needs_in_groups(machines: Machines) -> None:
    assert render(moqui_tps(machines)) == MOQUI_FILE


def test_what_is_written_is_read_back_equal(machines: Machines) -> None:
    tps = moqui_tps(machines)
    assert parse_tps(render(tps)) == tps


def test_the_embedded_engine_gets_beam_model_shards_and_the_box_of_the_settings(machines: Machines) -> None:
    settings = engine(embedded={"shards": 6}, seed=5)
    profile = built_in_profiles()["embedded"]
    lines = render(tps_for_beam(settings, profile, machines.named("GENERIC"), 2e-5, (0,), PATHS)).splitlines()
    assert "BeamModelFile /w/job 1/Log_csv/beam_model.json" in lines
    assert "EmbeddedShards 6" in lines
    assert "PhantomPositionZ -379" in lines
    assert "PhantomUnitX 2" in lines
    assert "ParticlesPerHistory 2e-05" in lines
    assert "RandomSeed 5" in lines
    assert not [line for line in lines if line.startswith(("GantryNum", "Threads"))]


def test_a_machine_that_moqui_has_no_model_of_is_refused_by_name(machines: Machines) -> None:
    with pytest.raises(EngineInputError, match="GENERIC"):
        tps_for_beam(engine(), built_in_profiles()["moqui"], machines.named("GENERIC"), 1.0, (0,), PATHS)


def test_relative_paths_name_the_folders_below_the_parent(machines: Machines) -> None:
    lines = render(moqui_tps(machines, absolute_paths=False)).splitlines()
    assert "UseAbsolutePath false" in lines
    assert "logFilePath log" in lines
    assert "DicomDir plan" in lines


def test_a_patient_ct_writes_no_phantom(machines: Machines) -> None:
    profile = built_in_profiles()["embedded"]
    text = render(tps_for_beam(engine(), profile, machines.named("G2"), 1.0, (0,), PATHS, patient_ct=True))
    assert "UsingPhantomGeo false\nTwoCentimeterMode false\n" in text
    assert "PhantomDim" not in text


def test_further_keys_are_typed_and_only_known_ones(machines: Machines) -> None:
    assert "DebugMode true\n" in render(moqui_tps(machines, extra_keys={"debugmode": "1"}))
    for keys in ({"Foo": "1"}, {"BeamNumbers": "2"}, {"RBE": "x"}):
        with pytest.raises(EngineInputError, match=next(iter(keys))):
            moqui_tps(machines, extra_keys=keys)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("Foo 1", "Foo"),
        ("gpuid 1", "GPUID"),
        ("Verbosity", "Verbosity"),
        ("NumberOfFraction 1.5", "NumberOfFraction"),
        ("DebugMode yes", "DebugMode"),
        ("RBE heavy", "RBE"),
        ("   ", "blanks"),
    ],
)
def test_an_odd_line_is_an_error_that_names_its_key(line: str, named: str) -> None:
    text = MOQUI_FILE.replace("Verbosity 0\n", "") + line + "\n"
    with pytest.raises(EngineInputError, match=named):
        parse_tps(text)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("ParticlesPerHistory 1.0", "ParticlesPerHistory -1", "ParticlesPerHistory"),
        ("ParticlesPerHistory 1.0", "ParticlesPerHistory inf", "ParticlesPerHistory"),
        ("ParticlesPerHistory 1.0\n", "", "ParticlesPerHistory is missing"),
        ("OutputDir /w/job 1/Dose\n", "", "OutputDir is missing"),
        ("PhantomDimZ 400\n", "", "PhantomDimZ"),
        ("PhantomPositionZ -380", "PhantomPositionZ -379.5", "PhantomPositionZ"),
        ("GantryNum 2", "GantryNum 3", "GantryNum"),
        ("BeamNumbers 1", "BeamNumbers 0", "BeamNumbers"),
        ("Scorer Dose", "Scorer Dosis", "Scorer"),
        ("UsingPhantomGeo true", "UsingPhantomGeo false", "TwoCentimeterMode"),
    ],
)
def test_a_missing_or_unsafe_value_names_its_key(before: str, after: str, named: str) -> None:
    assert before in MOQUI_FILE
    with pytest.raises(EngineInputError, match=named):
        parse_tps(MOQUI_FILE.replace(before, after))


def test_comments_case_line_ends_and_lists_are_read_as_moqui_reads_them() -> None:
    text = MOQUI_FILE.replace("GPUID 3", "gpuid   2 # the second")
    text = text.replace("BeamNumbers 1", "BeamNumbers 1, 2")
    tps = parse_tps("# made by hand\r\n" + text.replace("\n", "\r\n"))
    assert (tps.gpu_id, tps.beam_numbers, tps.parent_dir) == (2, (1, 2), "/w/job 1/Log_csv")


@pytest.mark.parametrize("folder", ["/w/{case}", "/w/<beam>", "/w/a#b", "/w/a\nb", " /w"])
def test_a_path_that_the_file_cannot_carry_fails_before_start(machines: Machines, folder: str) -> None:
    tps = moqui_tps(machines).model_copy(update={"output_dir": folder})
    with pytest.raises(EngineInputError, match="OutputDir") as caught:
        render(tps)
    assert "/w" not in str(caught.value)


def test_a_digest_sees_neither_gpu_nor_paths(machines: Machines) -> None:
    first = moqui_tps(machines, gpu=0).for_digest()
    other = tps_for_beam(
        engine(),
        built_in_profiles()["moqui"],
        machines.named("G2"),
        1.0,
        (7,),
        EnginePaths(*("/x/plan",) * 5),
    )
    assert first == other.for_digest()
    assert first["GPUID"] == "<gpu>"
    assert "/w" not in json.dumps(first)
    assert first["RandomSeed"] == -1932780356
    assert moqui_tps(machines, extra_keys={"RBE": "1.1"}).for_digest() != first


def test_over_several_gpus_the_layers_are_spread_as_moqui_reads_it(machines: Machines) -> None:
    profile = built_in_profiles()["moqui"]
    tps = tps_for_beam(engine(), profile, machines.named("G2"), 1.0, (0, 1, 2), PATHS)
    assert render(tps).endswith(
        "OverwriteResults true\n"
        "\n"
        "EnableBeamLayerMultiGpu true\n"
        "BeamLayerMultiGpuAllowedGpuIds 0,1,2\n"
        "BeamLayerMultiGpuMaxWorkers 0\n"
        f"BeamLayerMultiGpuTempRoot {PATHS.output_dir}/multi_gpu\n"
    )
    assert render(tps).startswith("GPUID 0\n")
    assert "MultiGpu" not in render(moqui_tps(machines))
    assert tps.for_digest() == moqui_tps(machines, gpu=0).for_digest(), "how many GPUs is no part of a result"


def test_every_built_in_profile_is_one_of_the_tested() -> None:
    assert sorted(built_in_profiles()) == ["embedded", "moqui"]
    assert all(isinstance(profile, EngineProfile) for profile in built_in_profiles().values())
