"""The password of a dashboard that is open to a network. Without it no page is run, so nothing is sent."""

import hashlib
import hmac
import os
import time
from functools import cache

import streamlit as st

NAME = "WORKBENCH_PASSWORD"
COOKIE = "card-workbench"
SECONDS = 1  # that a wrong password costs

REMEMBER = """export default ({ data }) => {
  document.cookie = `${data.cookie}; path=/; max-age=2592000; SameSite=Strict`;
};
"""
remember = st.components.v2.component("password", js=REMEMBER)


@cache
def key_of(password: str) -> str:
    """What the browser keeps in place of the password."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), COOKIE.encode(), 100_000).hex()


def is_open() -> bool:
    """Whether this session may see the pages; asks for the password where it may not yet."""
    wanted = os.environ.get(NAME)
    if not wanted:
        return True
    key = key_of(wanted)
    if st.session_state.get(COOKIE) == key:
        return True
    if hmac.compare_digest(str(st.context.cookies.get(COOKIE, "")), key):
        st.session_state[COOKIE] = key
        return True
    form = st.empty()
    with form.container():
        st.title("Card Workbench", anchor=False)
        given = st.text_input("Password", type="password", width=320, help="It was printed when the dashboard started.")
    if not given:
        return False
    if not hmac.compare_digest(given.encode(), wanted.encode()):
        time.sleep(SECONDS)
        st.text("This is not the password.")
        return False
    form.empty()
    st.session_state[COOKIE] = key
    remember(data={"cookie": f"{COOKIE}={key}"}, key="remember")
    return True
