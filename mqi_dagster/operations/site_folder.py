"""The folder of a site: made, completed, opened; and its secret, never replaced in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.files import private_folder, write_whole
from mqi_dagster.hu_table import PACKAGED_HU_TABLES
from mqi_dagster.ledger.database import revision_of
from mqi_dagster.ledger.key_check import key_check_in
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.machine import PACKAGED_MACHINES
from mqi_dagster.operations.instance import INSTANCE_FILE, open_instance, set_pool_limit, write_instance
from mqi_dagster.operations.settings_text import settings_file
from mqi_dagster.operations.sites import SETTINGS_NAME, local_zone, shown_path
from mqi_dagster.pseudonyms import Pseudonyms, make_secret, read_secret
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL, Settings, parse_settings, read_content, read_settings
from mqi_dagster.settings.section import Section


def ensure_secret(settings: Settings, *, new: bool = False) -> bool:
    """Make the secret of a site that has named nothing with one yet.

    Args:
        settings: Of the site.
        new: Whether the secret of then is given up: every case gets another name, and is simulated anew.

    Returns:
        Whether one was made.

    Raises:
        ConfigurationError: The site has cases, and their secret is lost or another one.
    """
    path = settings.site.secret_file
    url = ledger_url(settings)
    ledger = Ledger.open(url) if revision_of(url) is not None else None
    try:
        missing = not path.exists()
        if missing and ledger is not None and ledger.key_check.names_cases() and not new:
            raise ConfigurationError(
                f"the secret of this site is lost ({path.name}), and its cases were named with it: put it"
                " back from a backup. Where there is none, `mqi init --new-secret` makes another, under which"
                " every case is named and simulated anew"
            )
        if missing:
            make_secret(path)
        if ledger is not None:
            if new:
                ledger.key_check.forget()
            ledger.key_check.require(Pseudonyms(read_secret(path)).check)
        return missing
    finally:
        if ledger is not None:
            ledger.close()


def require_own_secret(settings: Settings) -> None:
    """Check that the secret can be read and is that of the site's cases; nothing is written.

    Raises:
        ConfigurationError: It is not.
        InfrastructureError: The ledger cannot be read.
    """
    check = Pseudonyms(read_secret(settings.site.secret_file)).check
    url = ledger_url(settings)
    # A ledger of earlier code is asked as well: before an upgrade is when it is backed up.
    known = None if revision_of(url) is None else key_check_in(url)
    if known is not None and known != check:
        raise ConfigurationError("it is not the one that this site's cases were named with")


_WRITTEN = "# Written by `mqi "
_MARK = _WRITTEN + "{command}`; it is written anew where its options ask for something else.\n"
_DAGSTER_YAML = """\
# Nothing is printed by the steps: their log is in the event log.
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
"""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `mqi case run` or `mqi course run` was told about its site."""

    settings: Path | None = None
    """A settings file to begin with."""
    machine_files: tuple[Path, ...] = ()
    """Machine files, or folders of them."""
    timezone: str | None = None
    histories: float | None = None
    radiotherapy: Mapping[str, Any] = field(default_factory=dict)
    """What the section `radiotherapy` shall say; what else stands in it stays."""
    command: str = "case run"


def make_run_site(out: Path, options: RunOptions) -> Settings:
    """Make a folder a site of its own, or adapt one that an earlier run has made.

    Args:
        out: The folder; made if it is absent. Its settings, secret, machine files, store, ledger, hand-over
            and Dagster's records all stand in it.
        options: What was asked for.

    Raises:
        ConfigurationError: The options do not fit the types, or the folder is a site of a person's own whose
            settings say something else.
    """
    file = out / SETTINGS_NAME
    before, content = _wanted(file, options)
    if content is not None:
        text = _MARK.format(command=options.command) + yaml.safe_dump(
            content, sort_keys=False, allow_unicode=True
        )
        out.mkdir(parents=True, exist_ok=True)
        _copy_machines(out / "config" / "machines", options)
        _copy_hu_tables(out / "config" / "hu", options)
        if text != before:
            write_whole(file, text.encode("utf-8"))
    settings = read_settings(file)
    ensure_secret(settings)
    if options.radiotherapy:
        # Cases may come as well; a folder of theirs that is missing would be an alarm.
        for folder in (settings.paths.inbox, *_own_handover(settings)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = settings.paths.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if not (home / INSTANCE_FILE).exists():
        write_whole(home / INSTANCE_FILE, _DAGSTER_YAML.encode("ascii"))
    write_instance(settings)
    return settings


def settings_wanted(out: Path, options: RunOptions) -> Settings:
    """The settings that `make_run_site` will give a folder; nothing is written.

    Raises:
        ConfigurationError: As `make_run_site`.
    """
    file = out / SETTINGS_NAME
    _, content = _wanted(file, options)
    return read_settings(file) if content is None else parse_settings(content, out.resolve())


def _wanted(file: Path, options: RunOptions) -> tuple[str | None, dict[str, Any] | None]:
    """The text of a settings file, None where there is none, and what shall stand in it.

    The latter is None where the file is a person's own, and right as it is.
    """
    before = file.read_text(encoding="utf-8") if file.is_file() else None
    if before is not None and not before.startswith(_WRITTEN):
        _require_same(file, options)
        return before, None
    content = _content(file if before is not None else None, options)
    parse_settings(content, file.parent)
    return before, content


def is_run_site(file: Path) -> bool:
    """Whether a settings file was written by `mqi case run` or `mqi course run`, which need no services."""
    with file.open("rb") as stream:
        return stream.read(len(_WRITTEN)) == _WRITTEN.encode()


def _own_handover(settings: Settings) -> list[Path]:
    """The folder of the hand-over where it is one of this machine."""
    return [settings.handover.folder] if settings.handover.target == LOCAL else []


def _require_same(file: Path, options: RunOptions) -> None:
    """A person's own site is used as it is: what would change it is refused."""
    settings = read_settings(file)
    other_zone = options.timezone is not None and options.timezone != settings.site.timezone
    other_histories = options.histories is not None and options.histories != settings.engine.histories
    other_file = options.settings is not None and options.settings.resolve() != file.resolve()
    section = overlaid(read_content(file).get("radiotherapy") or {}, options.radiotherapy)
    wanted = parse_settings({**read_content(file), "radiotherapy": section}, file.resolve().parent)
    other_courses = wanted.radiotherapy != settings.radiotherapy
    if other_zone or other_histories or other_file or other_courses or options.machine_files:
        raise ConfigurationError(
            f"the folder is a site of its own: change its {SETTINGS_NAME}, or name another folder"
        )


def _content(present: Path | None, options: RunOptions) -> dict[str, Any]:
    """Settings as YAML values: of the file to begin with, with every folder below the site's own."""
    base = options.settings or present
    content: dict[str, Any] = {"site": {"name": f"mqi {options.command}"}}
    if base is not None:
        read_settings(base)
        content = read_content(base)
    # Left out, each of these stands below the site's folder, and nobody is told of what is tried here.
    for name in ("paths", "database", "notifications"):
        content.pop(name, None)
    site, engine = (_section(content, name) for name in ("site", "engine"))
    site.pop("secret_file", None)
    if "handover" in content:
        for name in ("folder", "target"):
            _section(content, "handover").pop(name, None)
    if options.settings is not None:
        copied = read_settings(options.settings)
        _keep_keys(content, options.settings.resolve().parent)
        if copied.engine.embedded.cache is not None:
            _section(engine, "embedded")["cache"] = str(copied.engine.embedded.cache)
        _keep_files(_section(content, "radiotherapy"), copied.radiotherapy)
    content["radiotherapy"] = overlaid(content.get("radiotherapy") or {}, options.radiotherapy)
    site["timezone"] = options.timezone or site.get("timezone") or local_zone()
    if options.histories is not None:
        engine["histories"] = options.histories
    for name in ("engine", "radiotherapy"):
        if not content[name]:
            del content[name]
    return content


def _keep_keys(content: dict[str, Any], base: Path) -> None:
    """Let the hosts' keys stay where the settings that are copied have them."""
    for host in (content.get("hosts") or {}).values():
        for login in (host, host.get("jump") or {}):
            for name in ("key_file", "known_hosts"):
                if name in login:
                    login[name] = str(base / login[name])


def _keep_files(content: dict[str, Any], section: Section) -> None:
    """Let the files and folders that a section names stay where the settings that are copied have them."""
    for name, value in section:
        if isinstance(value, Section):
            inner = dict(content.get(name) or {})
            _keep_files(inner, value)
            if inner:
                content[name] = inner
        elif isinstance(value, Path) and (name in content or value.exists()):
            content[name] = str(value)


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two sections in one, however deep; where both say something, the one above counts."""
    found = dict(below)
    for name, value in above.items():
        under = found.get(name)
        if isinstance(value, Mapping):
            value = overlaid(under if isinstance(under, Mapping) else {}, value)
        found[name] = value
    return found


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    """A section to change; one that is absent, or whose every line is a comment, is made an empty one."""
    content[name] = content.get(name) or {}
    section: dict[str, Any] = content[name]
    return section


def _copy_machines(target: Path, options: RunOptions) -> None:
    """Copy the machine files in; those of an earlier run stay where nothing names others."""
    sources: list[Path] = []
    for path in options.machine_files:
        sources += sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not options.machine_files:
        if options.settings is not None:
            folder = read_settings(options.settings).paths.machines
            sources = sorted(folder.glob("*.yaml"))
        if not sources:
            if target.is_dir():
                return
            sources = sorted(PACKAGED_MACHINES.glob("*.yaml"))
    if not sources:
        raise ConfigurationError("no machine files (*.yaml) where --machine-files points to")
    _copy_in(sources, target)


def _copy_hu_tables(target: Path, options: RunOptions) -> None:
    """Copy the HU tables in; without settings the packaged one is used, or what an earlier run has copied."""
    if options.settings is not None:
        folder = read_settings(options.settings).paths.hu_tables
        _copy_in(sorted((folder if folder.is_dir() else PACKAGED_HU_TABLES).glob("*.yaml")), target)


def _copy_in(sources: list[Path], target: Path) -> None:
    """Copy files into a folder that then holds no others of their kind."""
    target.mkdir(parents=True, exist_ok=True)
    wanted = {source.name for source in sources}
    for stale in target.glob("*.yaml"):
        if stale.name not in wanted:
            stale.unlink()
    for source in sources:
        if source.resolve() != (target / source.name).resolve():
            write_whole(target / source.name, source.read_bytes())


def initialise(folder: Path, values: Mapping[str, Any], *, new_secret: bool = False) -> list[str]:
    """Make a folder a site, or complete one; what is there already stays as it is.

    Args:
        folder: The site's folder.
        values: Settings of a new site by dotted name; an existing settings file is not touched.
        new_secret: Whether the secret that its cases were named with is given up.

    Returns:
        What was made, relative to the folder, in words for people.

    Raises:
        ConfigurationError: The settings that are there, or those that are wanted, do not fit their types; or
            the secret is lost, or another one.
        InfrastructureError: The folder cannot be written.
    """
    try:
        return _initialise(folder, values, new_secret)
    except OSError as error:
        raise InfrastructureError(f"the site's folder cannot be written: {error.strerror}") from error


def _initialise(folder: Path, values: Mapping[str, Any], new_secret: bool) -> list[str]:
    made: list[str] = []
    file = folder / SETTINGS_NAME
    if file.exists():
        settings = read_settings(file)
    else:
        parse_settings(_nested(values), folder)
        private_folder(folder)
        write_whole(file, settings_file(values).encode("utf-8"))
        settings = read_settings(file)
        made.append(f"{SETTINGS_NAME} (every setting, commented)")
    secret = settings.site.secret_file
    if ensure_secret(settings, new=new_secret):
        made.append(f"{shown_path(secret, folder)} (key of the pseudonyms: back it up, show it to nobody)")
    paths = settings.paths
    handover = _own_handover(settings)
    for path in (paths.inbox, paths.data, paths.state, *handover, paths.machines, paths.hu_tables):
        if not path.is_dir():
            private_folder(path)
            made.append(f"{shown_path(path, folder)}/")
    for packaged, target in ((PACKAGED_MACHINES, paths.machines), (PACKAGED_HU_TABLES, paths.hu_tables)):
        if not any(target.glob("*.yaml")):
            for source in sorted(packaged.glob("*.yaml")):
                write_whole(target / source.name, source.read_bytes())
                made.append(shown_path(target / source.name, folder))
    site = Site(file)
    ledger = site.ledger
    _ = site.pseudonyms  # The ledger writes down which secret names the cases.
    if write_instance(settings, ledger):
        made.append(f"{shown_path(paths.dagster_home, folder)}/dagster.yaml")
    with open_instance(settings) as instance:
        if set_pool_limit(instance, settings, ledger):
            made.append("the limit of the pool gpu")
    return made


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in values.items():
        *sections, key = name.split(".")
        section_content = content
        for section in sections:
            section_content = section_content.setdefault(section, {})
        section_content[key] = value
    return content
