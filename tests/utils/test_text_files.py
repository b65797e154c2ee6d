import codecs

import pytest

from ldm.utils.errors import UserError
from ldm.utils.text_files import caption_of, lines_of, read_text

TEXT = "naïve café 🎉\r\nzweite Zeile\n"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_text_in_any_encoding_of_unicode_is_read(mark, encoding, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(mark + TEXT.encode(encoding))
    assert read_text(path) == TEXT


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("ok\r\ncafé".encode("latin-1"), r"is no UTF-8 text \(byte 0xe9 in line 2\); save it as UTF-8"),
        ("“curly”".encode("cp1252"), r"byte 0x93 in line 1"),
        ("naive".encode("utf-16-le"), "zero byte"),
        (codecs.BOM_UTF16_LE + b"a", r"is no UTF-16 text \(broken\)"),
    ],
)
def test_another_encoding_is_refused_in_one_line(data, reason, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=reason):
        read_text(path)


def test_lines_end_where_editors_end_them():
    assert lines_of("a\nb\r\nc\rd") == ["a", "b", "c", "d"]
    assert lines_of("a\n\nb\n") == ["a", "", "b"]
    assert lines_of("") == []
    inside = "a\u2028b\u2029c\x0bd\x0ce\x1cf\x1dg\x1eh\x85i"
    assert lines_of(f"{inside}\n") == [inside]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_caption_is_the_same_from_every_editor(encoding, ending):
    assert caption_of(f" naïve{ending}café {ending}".encode(encoding), "a.txt") == "naïve\ncafé"
    with pytest.raises(UserError, match=r"a\.txt is no UTF-8 text"):
        caption_of("café".encode("cp1252"), "a.txt")
