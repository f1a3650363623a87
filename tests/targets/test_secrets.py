"""Addresses are shown without their secrets, whatever letters these have."""

from __future__ import annotations

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.errors import PhipackError
from targets.secrets import argument_shown, shown, shown_without_query, without_login, without_secrets

RESERVED = ":/?#[]@!$&'()*+,;= \"%<>\\^`{|}~"
SCHEMES = ("postgresql+psycopg2", "postgresql", "http", "https", "s3", "mysql+pymysql")
passwords = st.text(st.sampled_from(RESERVED + "sekret"), min_size=1, max_size=12).map(lambda text: f"Zq{text}qZ")


@given(st.sampled_from(SCHEMES), passwords)
def test_no_password_is_shown_whatever_letters_it_has(scheme: str, password: str) -> None:
    address = f"{scheme}://user:{password}@host.example/db"
    for text in (shown(address), argument_shown(f"--tracking-uri={address}")):
        assert text.endswith(f"{scheme}://user:***@host.example/db")
    for raw in (address, urllib.parse.quote(password, safe=""), password):
        message = without_secrets(f"connection to {raw!s} failed", address)
        assert "Zq" not in message.replace("%25", "%"), message


@given(st.sampled_from(("password", "token", "access_token")), passwords.filter(lambda text: not set(text) & set("&#")))
def test_no_secret_of_a_query_is_shown_whatever_letters_it_has(name: str, secret: str) -> None:
    for address in (f"http://h/db?{name}={secret}", f"postgresql://h/db?x=1&{name}={secret}&y=2"):
        for text in (shown(address), argument_shown(f"--tracking-uri={address}")):
            assert f"{name}=***" in text
            assert "Zq" not in text
            assert "qZ" not in text
        for raw in (address, address.partition("/db")[2], secret):
            message = without_secrets(f"connection to {raw} failed", address)
            assert "Zq" not in message, message


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql+psycopg2://u:se/cret2@h/db", "postgresql+psycopg2://u:***@h/db"),
        ("postgresql+psycopg2://u:p@ss2@h/db", "postgresql+psycopg2://u:***@h/db"),
        ("http://:token@h/", "http://:***@h/"),
        ("https://h:5000/models@1.0", "https://h:5000/models@1.0"),
        ("http://[::1]:5000/a:b@c", "http://[::1]:5000/a:b@c"),
        ("sqlite:////a@b/c:d", "sqlite:////a@b/c:d"),
        ("s3://KEY:se/cret@bucket/x", "s3://KEY:***@bucket/x"),
        (
            "postgresql://h/db?user=u&password=a%26b&sslmode=require",
            "postgresql://h/db?user=u&password=***&sslmode=require",
        ),
        (
            "https://h/x?X-Amz-Signature=abc&X-Amz-Security-Token=d&y=1",
            "https://h/x?X-Amz-Signature=***&X-Amz-Security-Token=***&y=1",
        ),
        ("https://h/x?sig=abc&se=2030", "https://h/x?sig=***&se=2030"),
        ("https://h/x?access_token=abc", "https://h/x?access_token=***"),
        ("https://h/x?Policy=a&Signature=b~c__&Key-Pair-Id=d", "https://h/x?Policy=***&Signature=***&Key-Pair-Id=***"),
        ("https://h/x#access_token=abc", "https://h/x#access_token=***"),
        ("mssql+pyodbc://h/?odbc_connect=Driver%3DX%3BPWD%3Dabc", "mssql+pyodbc://h/?odbc_connect=***"),
        ("/api/2.0/x?token=abc", "/api/2.0/x?token=***"),
        ("models/phi", "models/phi"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, said: str) -> None:
    assert shown(address) == said
    assert without_secrets(f"at {address} and {address}") == f"at {said} and {said}"


def test_no_error_has_an_addresss_secrets() -> None:
    error = PhipackError("https://h/x?X-Amz-Signature=abc: no", fix="try http://u:p@h/")
    assert str(error) == "https://h/x?X-Amz-Signature=***: no\n  fix: try http://u:***@h/"
    assert error.problem == "https://h/x?X-Amz-Signature=***: no"


def test_a_long_text_takes_steps_in_proportion_to_its_length() -> None:
    """One without an address: each of its letters was tried as the beginning of a scheme that goes on to the end."""
    text = "a" * 1_000_000
    assert without_secrets(text, text) == argument_shown(text) == text


def test_a_long_scheme_hides_its_password() -> None:
    address = "x" * 100 + "://user:secret@host"
    assert "secret" not in shown(address) + without_secrets(f"at {address}") + argument_shown(f"--to={address}")


def test_an_address_that_a_stranger_chose_is_shown_without_its_query() -> None:
    assert shown_without_query("https://u:p@cdn/x?verify=1-abc&t=2") == "https://u:***@cdn/x?***"
    assert shown_without_query("https://cdn/x") == "https://cdn/x"


@given(st.sampled_from(("http", "https")), passwords)
def test_a_link_has_no_login_at_all(scheme: str, password: str) -> None:
    assert without_login(f"{scheme}://user:{password}@host.example:5000/ml/") == f"{scheme}://host.example:5000/ml/"
    assert without_login(f"{scheme}://token@host.example/ml?token=secret#part") == f"{scheme}://host.example/ml"
    assert without_login(f"{scheme}://host.example/ml/a@b") == f"{scheme}://host.example/ml/a@b"
