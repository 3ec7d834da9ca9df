"""The options of a study: the key that each command-line option or Python argument sets."""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from ..definition import Definition
from ..errors import DefinitionError, as_given, did_you_mean
from .definitions import StudyDefinition
from .safe_yaml import read_yaml

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Option:
    """A command-line option and Python argument that sets a key of a study.

    Attributes:
        argument: The Python argument, such as ``max_params``, whose option is ``--max-params``.
        key: The key, such as ``constraints.max_params``.
        hint: Text that follows the key's description in the option's help.
        opposite: The option that sets a boolean key to false.
    """

    argument: str
    key: str
    hint: str = ""
    opposite: str = ""

    @property
    def fields(self) -> tuple[FieldInfo, ...]:
        """Fields of the key: one for each evaluator that has it."""
        return find_fields(self.key)

    @property
    def flag(self) -> str:
        """The command-line option."""
        return f"--{self.argument.replace('_', '-')}"

    @property
    def panel(self) -> str:
        """Title of the group of options in which the command line's help shows it."""
        return _PANELS.get(self.key.partition(".")[0], "Search")

    @property
    def written_as(self) -> type[Any]:
        """Type of the option's value; ``str`` if the definition parses it."""
        field = self.fields[0]
        if any(isinstance(one, BeforeValidator) for one in field.metadata):
            return str
        return next((kind for kind in (bool, int, float) if kind in _parts(field.annotation)), str)

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed values of a key with a fixed set; ``NAME`` stands for those of plugins, ``NUMBER`` for any."""
        parts = [part for field in self.fields for part in _parts(field.annotation)]
        if bool in parts:  # a flag
            return ()
        found = dict.fromkeys(part for part in parts if isinstance(part, str))
        others = [word for kind, word in ((str, "NAME"), (int, "NUMBER")) if found and kind in parts]
        return (*found, *others)

    @property
    def help(self) -> str:
        """Description and default of the key."""
        field = self.fields[0]
        default = field.get_default()
        otherwise = "" if field.is_required() or default is None else f", else {str(default).lower()}"
        text = " ".join(filter(None, (_without_markup(field.description or ""), self.hint)))
        return f"{text}  [default: the study's{otherwise}]"


OPTIONS = (
    Option("backbone", "backbone"),
    Option("budget", "budget"),
    Option("space", "space"),
    Option("data", "data"),
    Option("image_size", "image_size"),
    Option("data_workers", "data_workers"),
    Option("seed", "seed"),
    Option("device", "device"),
    Option("threads", "threads"),
    Option("sampler", "sampler"),
    Option("priors", "priors"),
    Option("evaluator", "evaluator.name", hint="NAME is that of a plugin."),
    Option("epochs", "evaluator.epochs"),
    Option("batch_size", "evaluator.batch"),
    Option("lr", "evaluator.learning_rate", hint="0.0005 with --evaluator finetune."),
    Option("opt", "evaluator.optimizer"),
    Option("precision", "evaluator.precision"),
    Option(
        "channels_last",
        "evaluator.channels_last",
        hint="For auto use --set evaluator.channels_last=auto.",
        opposite="--no-channels-last",
    ),
    Option("pretrained", "evaluator.pretrained", hint="With --evaluator supernet or finetune."),
    Option("trial_limit", "trial_limit"),
    Option("track", "track"),
    Option("max_params", "constraints.max_params"),
    Option("max_latency", "constraints.max_latency"),
    Option("latency", "latency.source"),
    Option("latency_runtime", "latency.runtime"),
    Option("latency_optimized", "latency.optimized", opposite="--latency-plain"),
    Option("latency_batch", "latency.batch"),
    Option("latency_size", "latency.size"),
    Option("latency_threads", "latency.threads"),
    Option("latency_dtype", "latency.dtype"),
    Option("latency_memory_format", "latency.memory_format"),
    Option("latency_cuda_graph", "latency.cuda_graph", opposite="--no-latency-cuda-graph"),
    Option("latency_target", "latency.target"),
    Option("latency_limit", "latency.limit"),
    Option("latency_look", "latency.look"),
    Option("latency_from", "latency.model_file"),
)
"""In the order of the command line's help. ``--set`` sets every other key."""

_PANELS = {
    **dict.fromkeys(("data", "image_size", "data_workers"), "Data"),
    **dict.fromkeys(("evaluator", "device", "threads", "trial_limit"), "Training"),
    "latency": "Latency",
}

_KEYS = {option.argument: option.key for option in OPTIONS}


@dataclass(frozen=True)
class Given:
    """A value that overrides a key of a study file.

    Attributes:
        name: The option or argument, such as ``--epochs``, ``epochs`` or ``--set evaluator.epochs``.
        value: Plain data.
    """

    name: str
    value: Any


def find_fields(key: str) -> tuple[FieldInfo, ...]:
    """Return the fields of a key such as ``evaluator.epochs``, one for each member of a union that has the key.

    Raises:
        KeyError: If no definition has the key.
    """
    kinds: list[Any] = [StudyDefinition]
    found: tuple[FieldInfo, ...] = ()
    for part in key.split("."):
        found = tuple(kind.model_fields[part] for kind in kinds if part in kind.model_fields)
        if not found:
            raise KeyError(key)
        kinds = [kind for field in found for kind in definitions_in(field.annotation)]
    return found


def definitions_in(annotation: Any) -> list[type[Definition]]:
    """Return the definitions in an annotation, which may be a union."""
    return [one for one in _parts(annotation) if isinstance(one, type) and issubclass(one, Definition)]


def _parts(annotation: Any) -> list[Any]:
    """Return the types and literal values in an annotation."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    inner = get_args(annotation)
    return [part for one in inner for part in _parts(one)] if inner else [annotation]


def _without_markup(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", " ".join(text.split()))
    return re.sub(r'``"?(.*?)"?``', r"\1", text)


def python_parameters() -> list[inspect.Parameter]:
    """Return the parameters of a Python function that takes the keys of a study."""
    names = [*_KEYS, *(name for name in StudyDefinition.model_fields if name not in _KEYS)]
    parameters = []
    for name in names:
        annotation: Any = find_fields(_KEYS.get(name, name))[0].annotation
        if name in StudyDefinition.model_fields and definitions_in(StudyDefinition.model_fields[name].annotation):
            annotation = str | Mapping[str, Any] if name in _KEYS else Mapping[str, Any]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation | None)
        )
    return parameters


def shows_parameters(parameters: Iterable[inspect.Parameter]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return a decorator that adds parameters to the signature of a function with ``**arguments`` and rejects others.

    Args:
        parameters: Keyword-only parameters. Those that the function already has are ignored.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        first = [one for one in own if one.kind is not inspect.Parameter.KEYWORD_ONLY]
        added = [one for one in parameters if one.name not in signature.parameters]
        whole = signature.replace(parameters=[*first, *added, *own[len(first) :]])

        @functools.wraps(function)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for name in kwargs:
                if name not in whole.parameters:
                    near = did_you_mean(name, whole.parameters)
                    raise DefinitionError(f"{function.__name__}() got an unexpected argument {name!r}{near}")
            return function(*args, **kwargs)

        checked.__signature__ = whole  # type: ignore[attr-defined]
        return checked

    return decorate


def read_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Parse values of ``--set``, by key.

    Raises:
        DefinitionError: If a text is not ``KEY=VALUE`` or its value is not YAML.
    """
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise DefinitionError(f"--set {text!r} is not KEY=VALUE, such as evaluator.label_smoothing=0.1")
        settings[key] = read_yaml(value, f"--set {key}")
    return settings


def values_given(arguments: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Given]:
    """Return the values that override a study file, by key.

    Args:
        arguments: Values by argument; ``None`` overrides nothing, and a mapping overrides a whole section.
        settings: Values by key.

    Raises:
        DefinitionError: If an argument and a setting set the same key.
    """
    given: dict[str, Given] = {}
    for argument, value in arguments.items():
        if value is not None:
            plain = value.model_dump(exclude_unset=True) if isinstance(value, Definition) else value
            whole = argument not in _KEYS or isinstance(plain, Mapping)
            given[argument if whole else _KEYS[argument]] = Given(as_given(argument), plain)
    for key, value in settings.items():
        name = as_given(key, f"--set {key}")
        if key in given:
            raise DefinitionError(f"{name} and {given[key].name} set the same key: remove one of them")
        given[key] = Given(name, value)
    return given


def replace_keys(content: Mapping[str, Any], given: Mapping[str, Given]) -> dict[str, Any]:
    """Return the content of a study file with overridden values.

    Args:
        content: Content of the file.
        given: Overriding values by key. Sections are set before keys in them.

    Raises:
        DefinitionError: If a key is inside a value that is not a mapping.
    """
    replaced = dict(deepcopy(content))
    for key in sorted(given, key=lambda key: key.count(".")):
        *sections, last = key.split(".")
        inner = replaced
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise DefinitionError(f"{given[key].name} cannot be set: {section} is {inner!r}, which has no keys")
        inner[last] = deepcopy(given[key].value)
    return replaced
