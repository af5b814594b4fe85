"""What a msgspec type admits, as Hypothesis strategies of plain values: dict, list, str, int, float, bool, None.

So a message, a request or a configuration that gains a field is tried with it, unasked.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import inspect

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(CHARACTERS, max_size=20)
ANYTHING: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


Slip = SearchStrategy[Any] | None


def trees(type_: Any) -> SearchStrategy[Any]:
    """Values that `msgspec.convert` takes for `type_`, but for rules in a struct's __post_init__."""
    return _of(inspect.type_info(type_), None)


def slips(type_: Any) -> SearchStrategy[Any]:
    """The same with anything at all in some places."""
    return _of(inspect.type_info(type_), ANYTHING)


def _of(info: inspect.Type, slip: Slip) -> SearchStrategy[Any]:
    container = _container(info, slip)
    right = _scalar(info) if container is None else container
    return right if slip is None else st.one_of(right, right, right, slip)


def _container(info: inspect.Type, slip: Slip) -> SearchStrategy[Any] | None:
    if isinstance(info, inspect.StructType):
        return _struct(info, slip)
    if isinstance(info, inspect.UnionType):
        return st.one_of([_of(member, slip) for member in info.types])
    if isinstance(info, inspect.ListType | inspect.VarTupleType):
        return st.lists(_of(info.item_type, slip), max_size=3)
    if isinstance(info, inspect.TupleType):
        return st.tuples(*(_of(item, slip) for item in info.item_types)).map(list)
    if isinstance(info, inspect.DictType):
        keys = _of(info.key_type, None)
        return st.dictionaries(keys, _of(info.value_type, slip), min_size=1, max_size=3)
    return None


def _struct(info: inspect.StructType, slip: Slip) -> SearchStrategy[Any]:
    tag = {} if info.tag is None else {str(info.tag_field): st.just(info.tag)}
    fields = {field.encode_name: _of(field.type, slip) for field in info.fields}
    if info.array_like:
        return st.tuples(*tag.values(), *fields.values()).map(list)
    needed = {field.encode_name for field in info.fields if field.required}
    return st.fixed_dictionaries(
        {**tag, **{name: of for name, of in fields.items() if name in needed}},
        optional={name: of for name, of in fields.items() if name not in needed},
    )


def _scalar(info: inspect.Type) -> SearchStrategy[Any]:
    if isinstance(info, inspect.NoneType):
        return st.none()
    if isinstance(info, inspect.BoolType):
        return st.booleans()
    if isinstance(info, inspect.LiteralType):
        return st.sampled_from(info.values)
    if isinstance(info, inspect.StrType) and info.pattern is not None:
        return st.from_regex(info.pattern, fullmatch=True)
    if isinstance(info, inspect.StrType):
        return st.text(CHARACTERS, min_size=info.min_length or 0, max_size=20)
    if isinstance(info, inspect.IntType):
        low = -(1 << 63) if info.ge is None else info.ge
        return st.integers(low, (1 << 63) - 1 if info.le is None else info.le)
    if isinstance(info, inspect.FloatType):
        return st.floats(
            info.gt if info.ge is None else info.ge,
            info.lt if info.le is None else info.le,
            exclude_min=info.gt is not None,
            exclude_max=info.lt is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    raise NotImplementedError(f"no strategy for {info}")
