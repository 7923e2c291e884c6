"""Messages that people read on pages, as rules and errors below them say them.

What stands in braces is a value, whatever the code calls it; `{number}` is one in digits. First causes of
failures, and what checks have found, stand in no catalogue: they are English everywhere, so that they can be
looked up.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from mqi_dagster.languages import translated
from mqi_dagster.settings.web import Language

MESSAGES = (
    # Who may do what
    "name or password is wrong",
    "too many wrong passwords: locked until {time}",
    "too many failed tries from this address: wait {seconds} s",
    "a password has from {shortest} to {longest} characters",
    "{name} may not do this: it needs the right {right}, which the roles {roles} give",
    "{name} has no account here: an admin adds one of this name",
    "there is no account {name}; `mqi user list` names them",
    "a token is valid for 1 to {days} days",
    "name at least {count} characters of a patient's name or ID",
    # What is asked for
    "the {kind} is not known here",
    "another {name} is being asked for at this moment: try again",
    "only a result that is complete or partial can be signed: it is {state}",
    "its results were removed",
    "nothing to cancel: no run of {partition} is queued or in work",
    "nothing to retry: all that has failed is to run again already (backfill {identity})",
    "a reason is one line of at most 200 characters",
    "it is in work: run {run}",
    "it cannot be taken yet: {reason}",
    # Why it waits, and what has failed
    "no run yet: at most 200 stand in the queue, the most urgent first",
    "its latest dose has not been handed over: materialise handed_over",
    "its files have changed since its latest dose: it is simulated anew by itself; where no run of it comes,"
    " materialise interpreted_csvs to handed_over",
    "its latest run has not made all of its results: materialise them",
    "its intake has not been started yet",
    "it has not been taken in yet",
    "not every beam has been started yet",
    "its conclusion has not been started yet",
    "its results were removed since",
    "beam {numbers} has failed",
    "layers of beam {numbers} were not delivered",
    "goes on by itself{at}: {cause}",
    " at {time} UTC",
    "cancelled by an operator",
    "the run ended without an error of its own: its worker is gone",
    "the run was interrupted: its service was stopped",
    "no marker file {name}",
    "files changed within the last {seconds} s",
    "the time of a file lies in the future",
    "no delivery folder is there yet",
    "deliveries stand beside case folders, outside any of them",
    "deliveries or plans stand in the inbox itself, not in a case folder",
    "a link in it leads out of the inbox or nowhere",
    "the name of a file or folder in it is not UTF-8: rename it",
    # Files
    "delivery {number}",
    "beam {number}: logs of the engine",
    "beam {number}: RT Dose at the target",
    "beam {number}: {asset}",
    # The queue
    "Dagster's daemon does not run",
    "all {count} run places are taken (execution.max_runs)",
    "the pool is full: {count} of {limit} (slots and execution.pool_buffer)",
    "{count} runs of its case are in work",
    "{count} runs that hand over to {target} are in work (handover.max_runs)",
    "starts next",
    # GPUs and slots
    "free",
    "in use",
    "leased",
    "not of the pool",
    "not there any more",
    "not seen since {time} UTC",
    "{count} foreign processes",
    # The site
    "they have not answered since {time} UTC",
    "the services do not run, and {work}. Start them: {command}",
    "{count} runs are unfinished",
    "runs that lost infrastructure wait to go on",
    "cases are ready to be taken in",
    "files have come into the inbox",
    "`mqi dev`, or where systemd runs the site `systemctl start mqi.target`",
    "Start it again: `mqi stop` and `mqi dev`, or `systemctl restart mqi-{name}`",
    "the service watch does not run: nobody would tell that the others do not. {step}",
    "Dagster's daemon does not run: nothing is started and no sensor looks. {step}",
    "no answer since {time} UTC: {cause}. What waits for it goes on by itself once it answers",
    "the code location does not answer: no sensor looks and no run starts. Its log says whether it cannot be"
    " loaded. {step}",
    "the sensor {name} is switched off, and what it does is not done. Switch it on in the pages",
    "{cause}. What to do: {step}",
    "as planned",
)
"""Beside constant texts of errors, which are found where they are raised."""
_VALUE = re.compile(r"\{(\w+)\}")


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    def group(value: re.Match[str]) -> str:
        return rf"(?P<{value[1]}>{'[0-9]+' if value[1] == 'number' else '.*?'})"

    made = [one for one in MESSAGES if _VALUE.search(one)]
    plain = [re.sub(r"[^\w\s{}]", r"\\\g<0>", one) for one in made]
    return [
        (re.compile(_VALUE.sub(group, text), re.DOTALL), one) for text, one in zip(plain, made, strict=True)
    ]


@lru_cache(2000)
def message(text: str, language: Language) -> str:
    """A message in a language; itself where it is none of those that are known."""
    found = translated(text, language)
    if language is Language.ENGLISH or found != text:
        return found
    for pattern, known in _patterns():
        if values := pattern.fullmatch(text):
            said = {name: message(value, language) for name, value in values.groupdict().items()}
            return translated(known, language).format(**said)
    return text
