"""Where settings come from: command line, environment, file, default, the first that says something wins.

Each effective value keeps its origin, so that `callyard doctor` can show it and an error can name it. Written by hand
because pydantic-settings merges its sources before one can ask who said what, and lets misspelt variables pass.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from signaling.errors import SettingsError
from signaling.settings import DEV_KEY, DEV_SECRET, Settings

ENV_PREFIX = "CALLYARD_"
CONFIG_VARIABLE = "CALLYARD_CONFIG"
"""Names the file; the one variable that is not itself a setting."""
_FILE_MAX_BYTES = 1_048_576
_DEVELOPMENT = "development mode"
_DEVELOPMENT_VALUES = {"drain.deadline_seconds": 0, "calls.rate_limits.enabled": False}


@dataclass(frozen=True)
class Leaf:
    """One setting: its dotted path, and the field that declares it."""

    path: str
    field: FieldInfo

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.path.upper().replace(".", "_")


@dataclass(frozen=True)
class LoadedSettings:
    """`origins` maps every dotted path to a phrase such as `default` or `environment CALLYARD_PORT`."""

    settings: Settings
    origins: Mapping[str, str]


def leaves(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Leaf]:
    """Yield every setting, sections flattened, in order of declaration."""
    for name, field in model.model_fields.items():
        section = _section(field)
        if section:
            yield from leaves(section, f"{prefix}{name}.")
        else:
            yield Leaf(prefix + name, field)


def load(*, options: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> LoadedSettings:
    """Merge the sources and validate the result. Raises `SettingsError` with a sentence for people.

    options: dotted path → value, only those that were said. file: YAML; also named by `CALLYARD_CONFIG`.
    """
    if file is None and environ.get(CONFIG_VARIABLE):
        file = Path(environ[CONFIG_VARIABLE])
    known = {leaf.path: leaf for leaf in leaves()}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, "default")

    layers: list[tuple[dict[str, Any], str]] = []
    if file is not None:
        layers.append((_read_file(file, known), f"file {file}"))
    layers.append((_read_environ(environ, known), "environment {variable}"))
    layers.append((_known_only(options, known, "option"), "option {option}"))
    for layer, origin in layers:
        for path, value in layer.items():
            values[path] = value
            option = "--" + path.rpartition(".")[2].replace("_", "-")
            origins[path] = origin.replace("{variable}", known[path].variable).replace("{option}", option)

    is_dev = values.get("dev") not in (None, 0, "0", False)
    for path, value in _DEVELOPMENT_VALUES.items() if is_dev else ():
        if path not in values:
            values[path] = value
            origins[path] = _DEVELOPMENT
    if is_dev and not {"key", "secret", "keys"} & values.keys():
        values |= {"key": DEV_KEY, "secret": DEV_SECRET}
        origins |= {"key": _DEVELOPMENT, "secret": _DEVELOPMENT}
    try:
        settings = Settings.model_validate(_nested(values))
    except ValidationError as error:
        raise SettingsError(_sentences(error, origins)) from None
    return LoadedSettings(settings, types.MappingProxyType(origins))


def value_at(settings: BaseModel, path: str) -> Any:
    """Return the value of a dotted path."""
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _section(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _read_file(file: Path, known: Mapping[str, Leaf]) -> dict[str, Any]:
    try:
        if file.stat().st_size > _FILE_MAX_BYTES:
            raise SettingsError(f"{file} is larger than a settings file can be ({_FILE_MAX_BYTES} bytes).")
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not YAML: {' '.join(str(error).split())}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{file} must be a mapping of settings.")
    sections = {path.rpartition(".")[0] for path in known if "." in path}
    flat: dict[str, Any] = {}

    def flatten(mapping: dict[Any, Any], prefix: str) -> None:
        for name, value in mapping.items():
            path = f"{prefix}{name}"
            if path in sections and value is None:
                continue
            if path in sections and isinstance(value, dict):
                flatten(value, path + ".")
            else:
                flat[path] = value

    flatten(content, "")
    for path in flat.keys() & sections:
        raise SettingsError(f"`{path}` in {file} must be a mapping of settings.")
    return _known_only(flat, known, f"in {file}")


def _read_environ(environ: Mapping[str, str], known: Mapping[str, Leaf]) -> dict[str, Any]:
    by_variable = {leaf.variable: leaf for leaf in known.values()}
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable not in by_variable:
            raise SettingsError(_unknown(f"environment variable {variable}", variable, by_variable))
        if text:
            leaf = by_variable[variable]
            values[leaf.path] = _parse(leaf, text)
    return values


def _parse(leaf: Leaf, text: str) -> Any:
    """Containers are written as JSON or YAML, lists also separated by commas; all else is left to the model."""
    kind = typing.get_origin(leaf.field.annotation)
    if kind is dict:
        try:
            parsed = yaml.safe_load(text)
        except yaml.YAMLError:
            parsed = None
        if not isinstance(parsed, dict):
            raise SettingsError(f"{leaf.variable} must be a mapping such as {{key: value}}.")
        return {str(key): str(value) for key, value in parsed.items()}
    if kind in (list, tuple, frozenset):
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                raise SettingsError(f"{leaf.variable} must be a JSON list or values separated by commas.") from None
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _known_only(values: Mapping[str, Any], known: Mapping[str, Leaf], where: str) -> dict[str, Any]:
    for path in values:
        if path not in known:
            raise SettingsError(_unknown(f"setting `{path}` {where}", path, known))
    return dict(values)


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:
        last = name.rpartition(".")[2]
        near = [path for path in known if path.rpartition(".")[2] == last][:1]
    hint = f"did you mean `{near[0]}`?" if near else "see docs/reference/settings.md."
    return f"Unknown {what}; {hint}"


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path, value in values.items():
        *parents, name = path.split(".")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return root


def _sentences(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        location = [str(part) for part in problem["loc"]]
        path = next((p for n in range(len(location), 0, -1) if (p := ".".join(location[:n])) in origins), "")
        message = problem["msg"].removeprefix("Value error, ")
        message = message[0].upper() + message[1:]
        lines.append(f"`{path}` ({origins[path]}): {message}." if path else f"{message}.")
    return "\n".join(lines)
