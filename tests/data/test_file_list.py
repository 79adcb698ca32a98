"""Lists of images as files: what is written is read, by hand or by an earlier version too."""

import hashlib
from pathlib import Path

import pytest

from lorattt.data.file_list import FileList, Sample, read_image_list, write_image_list
from lorattt.errors import UserError

ROOT = Path("photos")
HEAD = "path\tlabel\tclass_name\n"
PAIR = FileList(ROOT, (Sample("x/1.jpg", 1), Sample("x/2.jpg", -1)), ("cat", "dog"))
ROWS = "\t0\tcat\nx/1.jpg\t1\tdog\nx/2.jpg\t-1\t\n"


def written(file: Path, content: str) -> Path:
    file.write_bytes(content.encode())
    return file


def of_earlier_versions(rows: str) -> str:
    """A list as versions before 0.2 wrote it."""
    digest = hashlib.sha256(rows.encode()).hexdigest()
    return f"# lorattt items 1\n# sha256 {digest}\n# 2 images, 2 classes\n{rows}"


@pytest.mark.parametrize(
    "of",
    [
        FileList(ROOT, (Sample("b/9.jpg", 1), Sample("a/1.jpg", 0), Sample("a/0.jpg", 0)), ("cat", "dog")),
        FileList(ROOT, (Sample("2.jpg", 2),), ("crane", "bird", "crane", "dog")),  # of classes without images, too
        FileList(ROOT, (Sample("a b/ü\u2028.jpg", 0), Sample("a b/ü\u2028.jpg", 0)), ("Köln \x0b",)),
        FileList(ROOT, (Sample('"a\tb".jpg', 0), Sample("# 'b'\n.jpg", 1)), ('a "real"\rcat', "#")),
        FileList(ROOT, (Sample("b.jpg", -1), Sample("a.jpg", -1)), ()),
        FileList(ROOT, (), ()),
        FileList(ROOT, (), ("cat",)),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, of: FileList) -> None:
    file = tmp_path / "new" / "items.txt"
    write_image_list(of, file)
    assert read_image_list(file, Path("elsewhere")) == FileList(Path("elsewhere"), of.samples, of.class_names)


def test_the_file_is_as_described(tmp_path: Path) -> None:
    write_image_list(PAIR, tmp_path / "items.txt")
    assert (tmp_path / "items.txt").read_bytes() == (HEAD + ROWS).encode()


@pytest.mark.parametrize("content", [HEAD + ROWS, of_earlier_versions(ROWS)])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_and_byte_order_marks_make_no_difference(tmp_path: Path, content: str, end: str) -> None:
    for mark in ("", "\ufeff"):
        assert read_image_list(written(tmp_path / "items.txt", mark + content.replace("\n", end)), ROOT) == PAIR


def test_lists_of_earlier_versions_have_no_quotes(tmp_path: Path) -> None:
    rows = '"a.jpg\t0\tthe "real" cat\n#b.jpg\t0\tthe "real" cat\n'
    found = read_image_list(written(tmp_path / "items.txt", of_earlier_versions(rows)), ROOT)
    assert found == FileList(ROOT, (Sample('"a.jpg', 0), Sample("#b.jpg", 0)), ('the "real" cat',))


@pytest.mark.parametrize("content", [HEAD + ROWS, of_earlier_versions(ROWS)])
def test_a_list_may_be_edited(tmp_path: Path, content: str) -> None:
    file = written(tmp_path / "items.txt", content.replace("x/2.jpg\t-1\t\n", "\nx/3.jpg\t0\tcat\n"))
    assert read_image_list(file, ROOT) == FileList(ROOT, (Sample("x/1.jpg", 1), Sample("x/3.jpg", 0)), ("cat", "dog"))


LEAVING = ["/etc/x.jpg", "../x.jpg", "a/../../x.jpg", "..", ".", "C:/x.jpg", "C:x.jpg", "\\x.jpg", "a\\..\\..\\x.jpg"]


@pytest.mark.parametrize("path", LEAVING)
def test_paths_out_of_the_root_are_refused(tmp_path: Path, path: str) -> None:
    file = written(tmp_path / "items.txt", f"{HEAD}a.jpg\t0\tcat\n{path}\t0\tcat\n")
    with pytest.raises(UserError) as caught:
        read_image_list(file, ROOT)
    assert str(caught.value) == f"{file} line 3: {path!r} is not a path below the root"
    with pytest.raises(UserError, match="is not a path below photos"):
        write_image_list(FileList(ROOT, (Sample(path, 0),), ("cat",)), tmp_path / "new.txt")
    assert not (tmp_path / "new.txt").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.jpg\t0\tcat\nb.jpg 0 cat\n", " line {}: has 1 fields, not 3"),
        ("a.jpg\t0\tcat\nb.jpg\t0\tcat\tdog\n", " line {}: has 4 fields, not 3"),
        ("a.jpg\t0\tcat\na.jpg\tone\tcat\n", " line {}: label 'one' is not a number"),
        ("a.jpg\t0\tcat\na.jpg\t-2\tcat\n", " line {}: label '-2' is not a number"),
        ("a.jpg\t0\tcat\na.jpg\t²\tcat\n", " line {}: label '²' is not a number"),
        ("a.jpg\t0\tcat\nb.jpg\t0\tdog\n", " line {}: class 0 is 'dog' here and 'cat' above"),
        ("a.jpg\t1\tcat\n", ": labels go up to 1 but none is 0"),
        ("a.jpg\t0\tcat\nb.jpg\t3\tdog\n", ": labels go up to 3 but none is 1"),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_malformed_lists_are_refused_by_line(tmp_path: Path, rows: str, message: str, old: bool) -> None:
    file = written(tmp_path / "items.txt", of_earlier_versions(rows) if old else HEAD + rows)
    with pytest.raises(UserError) as caught:
        read_image_list(file, ROOT)
    assert str(caught.value).startswith(f"{file}{message.format(5 if old else 3)}")
    assert "\n" not in str(caught.value)


def test_a_quote_that_does_not_end_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "items.txt", f'{HEAD}"a.jpg\t0\tcat\nb.jpg\t0\tcat\n')
    with pytest.raises(UserError, match=r"items\.txt line 3: unexpected end of data: correct it"):
        read_image_list(file, ROOT)


@pytest.mark.parametrize("content", ["", "a.jpg\t0\tcat\n", "# lorattt items\n", "path,label,class_name\n", "{}"])
def test_files_of_another_format_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"items\.txt line 1: not a list of images"):
        read_image_list(written(tmp_path / "items.txt", content), ROOT)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.txt cannot be read \(No such file"):
        read_image_list(tmp_path / "missing.txt", ROOT)
    (tmp_path / "image.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match=r"image\.txt is not a text file in UTF-8"):
        read_image_list(tmp_path / "image.txt", ROOT)
    with pytest.raises(UserError, match=r"image\.txt.x\.txt: cannot be written"):
        write_image_list(PAIR, tmp_path / "image.txt" / "x.txt")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text in UTF-8"):
        write_image_list(FileList(ROOT, (Sample("a\udcff.jpg", 0),), ("cat",)), tmp_path / "items.txt")
    assert not (tmp_path / "items.txt").exists()
