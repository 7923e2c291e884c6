"""What a log says: progress that rises, failures, never success."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.engine_contract.progress import Phase, ProgressParser, engine_failure
from mqi_dagster.errors import EngineError, EngineInputError, InfrastructureError, MqiError, Retry
from mqi_dagster.settings import built_in_profiles

TRANSCRIPT = (Path(__file__).parent / "data" / "moqui_stdout.txt").read_bytes()
MOQUI, EMBEDDED = built_in_profiles()["moqui"], built_in_profiles()["embedded"]


def scrub(text: str) -> str:
    return text.replace("SECRET", "*")


def failure_of(text: bytes, code: int | None = 134, profile: object = MOQUI) -> MqiError | None:
    parser = ProgressParser()
    parser.feed(text)
    parser.close()
    return engine_failure(MOQUI if profile is MOQUI else EMBEDDED, code, parser, scrub)


def test_a_whole_transcript_gives_every_batch_and_the_histories() -> None:
    parser = ProgressParser()
    events = parser.feed(TRANSCRIPT)
    assert [(e.batch, e.phase) for e in events if e.phase is Phase.GENERATING and e.batch] == [
        (i, Phase.GENERATING) for i in range(1, 7)
    ]
    assert [round(e.fraction, 3) for e in events] == [
        0, 0, 0.167, 0.167, 0.333, 0.333, 0.5, 0.5, 0.667, 0.667, 0.833, 0.833, 0.99, 0.99,
    ]  # fmt: skip
    assert parser.histories == 107940
    assert parser.failure is None
    assert engine_failure(MOQUI, 0, parser, scrub) is None


def test_pieces_of_any_size_give_the_same_events() -> None:
    whole = ProgressParser().feed(TRANSCRIPT)
    for size in (1, 7, 61):
        parser = ProgressParser()
        pieces = [TRANSCRIPT[i : i + size] for i in range(0, len(TRANSCRIPT), size)]
        assert [event for piece in pieces for event in parser.feed(piece)] == whole
        assert parser.histories == 107940


def test_a_line_split_across_two_reads_counts_once_and_only_when_whole() -> None:
    parser = ProgressParser()
    assert parser.feed(b"Generating particles for (3 of 1") == []
    assert [(e.batch, e.batches) for e in parser.feed(b"0 batches) in CPU ..\n")] == [(3, 10)]
    parser.feed(b"Total histories (Particles) : 10")
    assert parser.histories is None
    parser.feed(b"7940")
    parser.close()
    assert parser.histories == 107940


def test_progress_never_falls_and_never_is_one() -> None:
    parser = ProgressParser()
    lines = [
        b"Generating particles for (9 of 10 batches) in CPU ..\n",
        b"Particle transportation complete!\n",
        b"Generating particles for (2 of 10 batches) in CPU ..\n",
        b"Simlulation finalizing..\n",
    ]
    fractions = [event.fraction for line in lines for event in parser.feed(line)]
    assert fractions == [0.8, 0.9, 0.9, 0.99]


def test_fifty_batches_of_a_moqui_rise_by_two_percent_each() -> None:
    parser = ProgressParser()
    parser.feed(b"Total beamlets (Spots) : 36905\nTotal histories (Particles) : 500000000\n")
    assert parser.histories == 500000000
    assert (parser.current.phase, parser.current.fraction) == (Phase.STARTING, 0.0)
    parser.feed(b"Uploading particles with batch.. : Particle count --> 10000000 with 50 batches\n")
    after = []
    for batch in range(1, 51):
        parser.feed(f"Generating particles for ({batch} of 50 batches) in CPU ..\n".encode())
        assert parser.current.fraction == (batch - 1) / 50
        parser.feed(b"Particle generation complete!\nTransporting particles...\n")
        parser.feed(b"Particle transportation complete!\n")
        after.append((parser.current.phase, round(parser.current.fraction, 2)))
    assert after[:3] == [(Phase.TRANSPORTED, 0.02), (Phase.TRANSPORTED, 0.04), (Phase.TRANSPORTED, 0.06)]
    assert after[-2:] == [(Phase.TRANSPORTED, 0.98), (Phase.TRANSPORTED, 0.99)]
    parser.feed(b"Time taken by MC engine: 3.250539e+04 milli-seconds\n")
    assert parser.current.phase is Phase.FINALIZING


def test_without_batches_there_is_one() -> None:
    parser = ProgressParser()
    parser.feed(b"Uploading particles with no batch.. : Particle count --> 500\n")
    assert parser.current.batches == 1


def test_a_nonsense_batch_is_no_progress() -> None:
    assert ProgressParser().feed(b"Generating particles for (7 of 6 batches) in CPU ..\n") == []


def test_the_embedded_engine_reports_its_uncertainty() -> None:
    parser = ProgressParser()
    parser.feed(b"mqi-engine 1.0 (MCsquare 1.1)\nUncertainty (mean above half maximum) : 2.31 %\n")
    assert parser.uncertainty_percent == 2.31


@pytest.mark.parametrize(
    ("text", "kind", "retry"),
    [
        (b"terminate called after throwing an instance of 'x'\n", EngineError, Retry.FROM_BUDGET),
        (b"moqui: a.cpp:3: f(): Assertion `dim == 2' failed.\n", EngineError, Retry.FROM_BUDGET),
        (b"CUDA error at x.cu:10 code=700(cudaErrorIllegalAddress)\n", EngineError, Retry.FROM_BUDGET),
        (b"CUDA error: out of memory\n", EngineError, Retry.FROM_BUDGET),
        (b"CUDA error: no CUDA-capable device is detected\n", InfrastructureError, Retry.FOREVER),
        (b"all CUDA-capable device(s) is/are busy or unavailable\n", InfrastructureError, Retry.FOREVER),
        (b"terminate called\n  what():  Log Dir is not provided\n", EngineInputError, Retry.NEVER),
    ],
)
def test_failure_texts_have_a_class_even_with_exit_code_0(
    text: bytes, kind: type[MqiError], retry: Retry
) -> None:
    for code in (0, 134):
        error = failure_of(TRANSCRIPT + text, code)
        assert type(error) is kind
        assert error.retry is retry


def test_the_first_failure_wins_and_its_text_survives_scrubbed() -> None:
    text = b"terminate called after throwing an instance of 'std::runtime_error'\n"
    text += b"  what():  cannot read SECRET\nSegmentation fault\n"
    error = failure_of(text)
    assert error is not None
    assert error.first_cause == "what():  cannot read *"


def test_success_text_with_a_bad_exit_code_is_a_failure() -> None:
    error = failure_of(TRANSCRIPT, 139)
    assert isinstance(error, EngineError)
    assert "139" in error.message


def test_a_lost_engine_is_a_matter_of_infrastructure() -> None:
    assert isinstance(failure_of(TRANSCRIPT, None), InfrastructureError)


def test_the_exit_code_of_our_own_engine_wins_over_texts() -> None:
    error = failure_of(b"mqi-engine: energy 300 MeV is outside the beam model\n", 2, EMBEDDED)
    assert isinstance(error, EngineInputError)
    assert error.first_cause == "mqi-engine: energy 300 MeV is outside the beam model"
    assert isinstance(failure_of(b"mqi-engine: MCsquare died\n", 3, EMBEDDED), EngineError)


def test_two_different_numbers_of_histories_are_a_failure() -> None:
    assert isinstance(failure_of(TRANSCRIPT + b"Total histories (Particles) : 1\n", 0), EngineError)
