"""Checks of annotations while testing, at a fraction of the cost of `jaxtyping.jaxtyped`.

The decorator of jaxtyping 0.3 binds the arguments and calls the checker twice, around a function without a
body: it took half of some tests. Here the checker wraps the function itself, within a scope for the names of
the axes where an annotation has any. The checks are the same; those that this does not cover are jaxtyping's.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from jaxtyping import AbstractArray
from jaxtyping._storage import pop_shape_memo, push_shape_memo

_original = jaxtyping.jaxtyped


def _arrays(annotation: Any) -> list[type]:
    """The array types in an annotation, however deep.

    Raises: LookupError if it is not known yet, as that of a string.
    """
    if isinstance(annotation, str | typing.ForwardRef | typing.TypeVar):
        raise LookupError
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return [annotation]
    if "PyTree" in repr(annotation) or annotation is typing.Self:
        raise LookupError
    if isinstance(annotation, list | tuple):  # parameters of a Callable
        return [array for part in annotation for array in _arrays(part)]
    if typing.get_origin(annotation) is typing.Literal:
        return []
    return [array for part in typing.get_args(annotation) for array in _arrays(part)]


def lean(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """A function whose arguments and result are checked.

    Raises: LookupError if an annotation needs more than this.
    """
    arrays = [a for value in function.__annotations__.values() for a in _arrays(value)]
    checked: Callable[..., Any] = typechecker(function)
    if not arrays:
        return checked
    if inspect.isgeneratorfunction(function) or any("{" in array.dim_str for array in arrays):
        raise LookupError

    @functools.wraps(function)
    def scoped(*args: Any, **kwargs: Any) -> Any:
        push_shape_memo({})
        try:
            return checked(*args, **kwargs)
        finally:
            pop_shape_memo()

    return scoped


def jaxtyped(fn: Any = None, *, typechecker: Any = None) -> Any:
    """Stands in for `jaxtyping.jaxtyped`."""
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if inspect.isfunction(fn) and typechecker is not None and not getattr(fn, "__no_type_check__", False):
        try:
            return lean(fn, typechecker)
        except Exception:
            pass
    return _original(fn, typechecker=typechecker)


jaxtyping.jaxtyped = jaxtyped
