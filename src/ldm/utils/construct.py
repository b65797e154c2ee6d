"""Objects from plain config nodes, which are dicts with a `_target_` and its arguments."""

import functools
import inspect
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from ldm.utils.errors import UserError, did_you_mean, with_key
from ldm.utils.targets import ALLOWED, STORED, locate, user_modules

__all__ = [
    "ALLOWED",
    "STORED",
    "Deferred",
    "annotation_in",
    "check",
    "construct",
    "default_in",
    "fits",
    "node_at",
    "reconstruct",
    "user_modules",
]

DIRECTIVES = {"_target_", "_partial_"}
SCALARS = (bool, int, float, str, types.NoneType)


class Deferred(functools.partial[Any]):
    """A call that still waits for arguments; what it refuses is reported with its config key.

    Attributes:
        key: of the node that describes the call.
    """

    key = ""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """The result of the call."""
        return _call(super().__call__, self.key, self.keywords, args, kwargs)


def construct(node: Any, key: str = "", /, **supplied: Any) -> Any:
    """The object that a node of plain types describes; inner nodes are built first.

    Args:
        node: a dict with `_target_` and that target's arguments, or with `_partial_: true` besides for a
            `Deferred` call; lists and other dicts are walked; anything else is returned as it is.
        key: config key of the node, for messages.
        **supplied: live objects passed as further arguments.

    Raises: UserError naming the key of the first value that is wrong, or whatever else the target raises.
    """
    return _checked(node, key, supplied, ALLOWED)


def reconstruct(node: Any, key: str = "") -> Any:
    """The object that a node in a file describes, a model's or an image's.

    The node may name `ldm`'s own nets, schedules, solvers and guidance and the modules of `user_modules`.

    Args:
        node: as in `construct`.
        key: of the node, for messages.

    Raises: UserError as in `construct`.
    """
    return _checked(node, key, {}, STORED)


def check(
    config: Any,
    key: str = "",
    *,
    supplied: Mapping[str, Collection[str]] | None = None,
    unneeded: Collection[str] = (),
    allowed: tuple[str, ...] = ALLOWED,
) -> None:
    """Refuses unknown keys, missing and misfit values and foreign targets anywhere in a config.

    Args:
        config: plain dicts, lists and values.
        key: of the config in a larger one.
        supplied: config key of a node -> arguments that the program passes when it builds the node.
        unneeded: keys that the program does not use: they, and values below them, may be missing.
        allowed: prefixes of the targets that are accepted.

    Raises: UserError for the first mistake, naming its full key.
    """
    for full, value in _walk(config, key):
        if value == "???" and not f"{full}.".startswith(tuple(f"{name}." for name in unneeded)):
            raise UserError(f"needs a value ({full}=...)", full)
        if isinstance(value, dict) and "_target_" in value:
            _check_node(full, value, frozenset((supplied or {}).get(full, ())), allowed)


def node_at(config: Any, key: str) -> dict[str, Any] | None:
    """The node with a dotted key, None if there is none."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else None


def annotation_in(config: Any, key: str) -> Any:
    """Annotation of the argument of a target that a dotted key is for, `Any` if it has none."""
    parent, _, name = key.rpartition(".")
    node = node_at(config, parent)
    try:
        target = locate((node or {}).get("_target_"))
    except UserError:
        return Any
    return _parameters(target)[name].annotation if name in _names(target) else Any


def default_in(config: Any, key: str) -> Any:
    """Default of the argument of a target that a dotted key is for, `Parameter.empty` if it has none."""
    parent, _, name = key.rpartition(".")
    try:
        parameters = _parameters(locate((node_at(config, parent) or {}).get("_target_")))
    except (UserError, ValueError, TypeError):  # no node of an object, or one without a signature
        return inspect.Parameter.empty
    return parameters[name].default if name in parameters else inspect.Parameter.empty


def _checked(node: Any, key: str, supplied: dict[str, Any], allowed: tuple[str, ...]) -> Any:
    check(node, key, supplied={key: supplied}, allowed=allowed)
    return _build(node, key, supplied, allowed)


def _build(node: Any, key: str, supplied: dict[str, Any], allowed: tuple[str, ...]) -> Any:
    """The object of a checked node."""
    if isinstance(node, list):
        return [_build(value, _join(key, i), {}, allowed) for i, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {
        name: _build(value, _join(key, name), {}, allowed)
        for name, value in node.items()
        if name not in DIRECTIVES or "_target_" not in node
    }
    if "_target_" not in node:
        return values
    target = locate(node["_target_"], allowed)
    if node.get("_partial_"):
        deferred = Deferred(target, **values, **supplied)
        deferred.key = key
        return deferred
    return _call(target, key, _names(target), (), {**values, **supplied})


def _call(
    target: Any, key: str, names: Collection[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The result of a call, what it refuses as a UserError with the key."""
    try:
        return target(*args, **kwargs)
    except FileNotFoundError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise with_key(UserError(reason), key, names) from error
    except (TypeError, ValueError) as error:
        keyed = with_key(error, key, names)
        raise keyed from (None if keyed is error else error)


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """All (full key, value) pairs of nested dicts and lists, outer ones first."""
    yield key, value
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _walk(child, _join(key, name))
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _walk(child, _join(key, i))


def _check_node(key: str, node: dict[str, Any], supplied: frozenset[str], allowed: tuple[str, ...]) -> None:
    """Checks a node against the signature of its target."""
    try:
        target = locate(node["_target_"], allowed)
    except UserError as error:
        raise with_key(error, _join(key, "_target_"), ()) from error.__cause__
    parameters = _parameters(target)
    named, open_ended = _names(target), any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in node.items():
        if name in DIRECTIVES or (open_ended and name not in named):
            continue
        if name not in named:
            hint, options = did_you_mean(str(name), named), ", ".join(sorted(named)) or "none"
            raise UserError(f"unknown key{hint or ';'} allowed: {options}", _join(key, name))
        if not fits(value, parameters[name].annotation):
            kind = inspect.formatannotation(parameters[name].annotation)
            raise UserError(f"must be {kind}, got {value!r}", _join(key, name))
    if node.get("_partial_"):
        _refuse_nested(key, node)
        return
    required = {name for name in named if parameters[name].default is inspect.Parameter.empty}
    for name in sorted(required - node.keys() - supplied):
        raise UserError(f"missing; {node['_target_']} needs it", _join(key, name))


def _refuse_nested(key: str, node: dict[str, Any]) -> None:
    """A `_partial_` node holds values only: an object inside it would be shared by all calls."""
    for inner, value in _walk(node, key):
        if value is not node and isinstance(value, dict) and "_target_" in value:
            raise UserError(f"no object may be nested under _partial_ ({key or 'config'})", inner)


@functools.lru_cache(maxsize=256)
def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a target; annotations evaluated where they can be."""
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (NameError, TypeError, SyntaxError, AttributeError):
        return inspect.signature(target).parameters


def _names(target: Any) -> list[str]:
    """Names of the arguments that may be passed by keyword."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, p in _parameters(target).items() if p.kind in kinds and name != "self"]


def fits(value: Any, annotation: Any) -> bool:
    """True if a plain value can be meant for the annotation, or if only the target can tell."""
    origin = get_origin(annotation)
    if origin in (list, Sequence) and not (isinstance(value, dict) and "_target_" in value):
        return isinstance(value, list | tuple) and all(fits(v, get_args(annotation)[0]) for v in value)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(annotation))
    if origin is Literal:
        return value in get_args(annotation)
    if annotation is None:
        return value is None
    if annotation not in SCALARS:
        return getattr(annotation, "__name__", "") != "Tensor"  # no plain value is one
    if annotation in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if annotation is float else annotation)
