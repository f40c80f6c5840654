"""Choices are in the address: a page starts from it, and a choice writes it once, as one entry of the history.

The address alone decides what is shown, so Back, Forward, and a shared link show it again. Streamlit's own
`bind="query-params"` takes parameters along to the next page and removes them there, each time as one more entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

Value = str | bool | list[str]
DEFAULTS = "defaults of the choices"  # session state: parameter -> what need not be in the address


def start(page: str) -> None:
    """Forget the choices of the page before, so that a page starts from its address.

    Those of this page stay known: a second choice may come before the page has been drawn after the first.
    """
    if st.session_state.get("page") != page:
        for name in st.session_state.get(DEFAULTS, ()):
            st.session_state.pop(name, None)
        st.session_state[DEFAULTS] = {}
    st.session_state["page"] = page


def read(name: str, default: Value) -> Any:
    """What the address has for a parameter, of the type of the default: a text, true or false, or a list of texts."""
    found = st.query_params.get_all(name)
    if not found:
        return default
    if isinstance(default, bool):
        return found[-1] == "true"
    return [each for each in found if each] if isinstance(default, list) else found[-1]


def write(**changes: str | bool | Sequence[str] | None) -> None:
    """Change parameters of the address, all in one entry of the history; None removes one."""
    now = {name: st.query_params.get_all(name) for name in st.query_params}
    then = now | {name: as_texts(value) for name, value in changes.items() if value is not None}
    then = {name: value for name, value in then.items() if name not in changes or changes[name] is not None}
    if then != now:
        st.query_params.from_dict(then)


def as_texts(value: str | bool | Sequence[str]) -> list[str]:
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [value] if isinstance(value, str) else list(value) or [""]


def changed(*forgotten: str) -> None:
    """Write every choice of the page that is not the default, and remove the parameters `forgotten`."""
    held = {name: (default, st.session_state.get(name)) for name, default in st.session_state[DEFAULTS].items()}
    values = {name: None if value == default else value for name, (default, value) in held.items()}
    write(**values | dict.fromkeys(forgotten))


def choice(
    widget: Callable[..., Any],
    label: str,
    *options: Sequence[str],
    key: str,
    default: Value | None = None,
    pinned: bool = False,
    forgets: Sequence[str] = (),
    former: Mapping[str, str] | None = None,
    **settings: Any,
) -> Any:
    """A widget whose value is in the address under `key`; without `options` a text field or a toggle.

    The default is the first option; `pinned`: it is written, too, with the first choice on the page, and takes the
    place of no other text. What is not among the options is left out; `former` are names of older versions. A change
    removes the parameters that it `forgets`.
    """
    first: Value = default if default is not None else options[0][0] if options else ""
    value = read(key, first)
    value = (former or {}).get(value, value) if isinstance(value, str) else value
    if options:
        known = [each for each in value if each in options[0]] if isinstance(value, list) else value
        value = known if known in options[0] or isinstance(known, list) else None if pinned else first
    if not isinstance(value, str) or options or st.session_state.get(key) != value:  # else a field loses what is typed
        st.session_state[key] = value
    st.session_state[DEFAULTS][key] = None if pinned else first
    return widget(label, *options, key=key, on_change=changed, args=tuple(forgets), **settings)
