import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.errors import UsageError
from flexor_search.runs import StorageName


def test_a_database_is_named_by_its_url():
    name = StorageName.parse("postgresql+psycopg2://me:a@b:c@host:5432/flexor?sslmode=require&password=x")
    assert name.kind == "postgresql"
    assert name.place == "postgresql://me:a@b:c@host:5432/flexor?sslmode=require&password=x"
    assert name.shown == "postgresql://me@host:5432/flexor?sslmode=require"
    assert StorageName.parse("postgres:///flexor").shown == "postgresql:///flexor"


def test_a_journal_is_named_by_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("journal:a/shared.log", f"journal:{tmp_path}/a/shared.log", f"journal://{tmp_path}/a/shared.log"):
        assert StorageName.parse(text) == StorageName("journal", str(tmp_path / "a/shared.log"))
        assert StorageName.parse(text).shown == f"journal:{tmp_path}/a/shared.log"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sqlite:///shared.db", "SQLite is for one process"),
        ("mysql://me:secret@host/flexor", "'mysql://me@host/flexor' is not known"),
        ("postgresql://me:secret@host", "'postgresql://me@host' names no database"),
        ("postgresql://me:secret@host:many/flexor", "'postgresql://me@host:many/flexor' is no URL"),
        ("postgresql", "'postgresql' is not known"),
        ("journal:", "'journal:' is not known"),
        ("shared.log", "'shared.log' is not known"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_what_can(text, said):
    with pytest.raises(UsageError, match=r"^storage: ") as raised:
        StorageName.parse(text)
    assert said in str(raised.value)
    assert "postgresql://USER@HOST/DATABASE" in str(raised.value)
    assert "secret" not in str(raised.value)


@given(st.text(st.characters(codec="ascii", exclude_characters="/?#"), min_size=6).map(lambda text: f"~{text}~"))
def test_a_password_is_never_shown(password):
    url = f"postgresql://me:{password}@host/flexor"
    try:
        shown = StorageName.parse(url).shown
    except UsageError as error:
        shown = str(error)
    assert password not in shown
