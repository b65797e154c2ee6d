"""Checks a composed config before anything is built, and builds from it: the only place that instantiates."""

import contextlib
import difflib
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ALLOWED = ("ldm.", "lightning.pytorch.", "torch.optim.", "torch.nn.")
_own: list[str] = []
DIRECTIVES = {"_target_", "_partial_", "_args_", "_convert_", "_recursive_"}
SCALARS = (bool, int, float, str, types.NoneType)


class ConfigError(ValueError):
    """A mistake in the config or on the command line; its text is one line that names the key."""


@contextlib.contextmanager
def own_modules(folder: str | None) -> Iterator[None]:
    """While inside, targets may name the modules in a folder of the user's, given by --config-dir.

    They are named on the command line only: what files of models and images name is made by
    `ldm.checkpoints.construct`, which allows nothing but `ldm`'s own.
    """
    if folder is None or not Path(folder).is_dir():
        yield
        return
    path = str(Path(folder).resolve())
    names = {p.stem for p in Path(path).iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    added = [f"{name}." for name in names - sys.stdlib_module_names - sys.modules.keys()]
    sys.path.append(path)
    _own.extend(added)
    try:
        yield
    finally:
        sys.path.remove(path)
        for name in added:
            _own.remove(name)
            for module in [m for m in sys.modules if f"{m}.".startswith(name)]:
                del sys.modules[module]


def _is_allowed(name: str) -> bool:
    return name.startswith((*ALLOWED, *_own))


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Returns "; did you mean 'option'?" for the option that is nearest to `word`, or nothing.

    Dotted names also match by their last part: "lr" finds "optimizer.lr".
    """
    options = list(options)
    last = word.rpartition(".")[2]
    near = [o for o in options if o.rpartition(".")[2] == last] or difflib.get_close_matches(word, options, 1)
    if not near:
        parts = {o.rpartition(".")[2]: o for o in options}
        near = [parts[p] for p in difflib.get_close_matches(last, parts, 1, cutoff=0.75)]
    return f"; did you mean {min(near, key=len)!r}?" if near else ""


def check_targets(
    cfg: DictConfig | Mapping[str, Any],
    supplied: Mapping[str, Collection[str]] | None = None,
    unneeded: Collection[str] = (),
) -> None:
    """Refuses unknown keys, missing and misfit values and foreign targets anywhere in the config.

    Args:
        cfg: the composed config of a command.
        supplied: config key of a node -> arguments that the program passes when it builds the node.
        unneeded: keys that the program does not use: they, and values below them, may be missing.

    Raises:
        ConfigError: for the first mistake, naming its full key.
    """
    for key, value in _walk(_resolved(cfg), ""):
        if value == "???" and not f"{key}.".startswith(tuple(f"{name}." for name in unneeded)):
            raise ConfigError(f"{key}: needs a value ({key}=...)")
        if isinstance(value, dict) and "_target_" in value:
            _check_node(key, value, frozenset((supplied or {}).get(key, ())))


def build(node: DictConfig | Mapping[str, Any], **supplied: object) -> Any:
    """Returns the object that a config node describes; the only call of `instantiate` in the project.

    Args:
        node: has `_target_` and that target's arguments.
        **supplied: live objects passed as further arguments, untouched (a config would copy them).
    """
    from hydra.utils import instantiate

    if not supplied:
        return instantiate(node, _convert_="all")
    return instantiate(node, _convert_="all", _partial_=True)(**supplied)


def _resolved(cfg: DictConfig | Mapping[str, Any]) -> Any:
    """The config as plain dicts and lists, interpolations resolved."""
    if not isinstance(cfg, DictConfig):
        return cfg
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        first = (error.msg or str(error)).strip().splitlines()[0]
        raise ConfigError(f"{error.full_key or 'config'}: {first}") from error


def _walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """All (full key, value) pairs of nested dicts and lists, outer ones first."""
    yield key, value
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _walk(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _walk(child, f"{key}.{i}" if key else str(i))


def _check_node(key: str, node: dict[str, Any], supplied: frozenset[str]) -> None:
    """Checks one `_target_` node against the signature of its target."""
    target = _locate(f"{key}._target_".lstrip("."), node["_target_"])
    parameters = _signature(target)
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name != "self"
    }
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in node.items():
        full = f"{key}.{name}".lstrip(".")
        if name in DIRECTIVES:
            continue
        if name not in named:
            if open_ended:
                continue
            hint, allowed = did_you_mean(str(name), named), ", ".join(sorted(named)) or "none"
            raise ConfigError(f"{full}: unknown key{hint or ';'} allowed: {allowed}")
        if not _fits(value, named[name].annotation):
            kind = inspect.formatannotation(named[name].annotation)
            raise ConfigError(f"{full}: must be {kind}, got {value!r}")
    if node.get("_partial_"):
        _refuse_nested(key, node)
    elif "_args_" not in node:
        required = {name for name, p in named.items() if p.default is p.empty}
        for name in sorted(required - node.keys() - supplied):
            raise ConfigError(f"{key}.{name}: missing; {node['_target_']} needs it".lstrip("."))


def _refuse_nested(key: str, node: dict[str, Any]) -> None:
    """A `_partial_` node holds values only: an object inside it would be shared by all calls."""
    for inner, value in _walk(node, key):
        if value is not node and isinstance(value, dict) and "_target_" in value:
            raise ConfigError(f"{inner}: no object may be nested under _partial_ ({key or 'config'})")


def _locate(key: str, path: Any) -> Any:
    """The object that a `_target_` names, after making sure that it comes from an allowed package."""
    if not isinstance(path, str) or not _is_allowed(path):
        raise ConfigError(
            f"{key}: {path!r} is not allowed; targets start with {', '.join((*ALLOWED, *_own))}"
        )
    module, parts = None, path.split(".")
    for end in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(".".join(parts[:end]))
            break
    try:
        target = functools.reduce(getattr, parts[end:], module)
    except AttributeError:
        near = difflib.get_close_matches(parts[end], [n for n in vars(module) if not n.startswith("_")], 1)
        hint = f"; did you mean '{'.'.join([*parts[:end], near[0]])}'?" if near else ""
        raise ConfigError(f"{key}: {path!r} not found{hint}") from None
    home = getattr(target, "__module__", None) or ""
    if not callable(target) or not _is_allowed(f"{home}."):  # ldm.x.os.system starts with "ldm." too
        raise ConfigError(f"{key}: {path!r} is not a class or function of {', '.join(ALLOWED)}")
    return target


def _signature(target: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a target; annotations evaluated where they can be."""
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (NameError, TypeError, SyntaxError, AttributeError):
        return inspect.signature(target).parameters


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a YAML value can be meant for the annotation; True where only the target itself can tell."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(annotation))
    if origin is Literal:
        return value in get_args(annotation)
    if annotation is None:
        return value is None
    if annotation not in SCALARS:
        return getattr(annotation, "__name__", "") != "Tensor"  # no YAML value is one
    if annotation in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if annotation is float else annotation)
