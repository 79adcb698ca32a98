"""Hostile names: each format's own reader finds text alone."""

import re
from html.parser import HTMLParser

import pytest

from lorattt.report.escape import latex, markdown, visible
from lorattt.report.html import page_environment

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "&lt;b&gt; &amp;",
    "a|b|c",
    "**bold** _it_ `code` ~~no~~",
    "[text](javascript:alert(1))",
    "![](http://example.org/x.png)",
    "http://example.org and www.example.org",
    "$x^2$ 100% #1 {a} \\input{/etc/passwd} a~b",
    "\\end{tabular}\\write18{ls}",
    "line\nbreak\r\nand\ttab",
    "# heading",
    "- item",
    "1. item",
    "1) item",
    "--- rule",
    "[x] *starred",
    '=SUM(A1),"quoted"',
    "\u202eturned\u202c \u2066x",
    "\u05e9\u05dc\u05d5\u05dd | \u0645\u0631\u062d\u0628\u0627",
    "zero\u200bwidth \ufeff \x00 \x1b[31m \ud800",
    "\u2028\u2029\x85",
    "`",
    "``?`",
    "--dashes---",
    "\u732b \U0001f600 caf\u00e9",
    "x" * 5000,
    "",
]


def html(name: str) -> str:
    return page_environment().from_string("{{ name }}").render(name=name)


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def _bare(text: str) -> str:
    return text.replace("\u2068", "").replace("\u2069", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_html_is_text_alone(name: str) -> None:
    reader = _Texts()
    reader.feed(f'<p title="{html(name)}">{html(name)}</p>')
    reader.close()
    assert [tag for tag, _ in reader.tags] == ["p"]
    assert [key for key, _ in reader.tags[0][1]] == ["title"]
    assert _bare(reader.tags[0][1][0][1] or "") == visible(name)
    assert _bare(reader.text) == visible(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_is_text_alone(name: str) -> None:
    """Read by a CommonMark parser with GitHub's tables: one cell, one list item, no markup within."""
    markdown_it = pytest.importorskip("markdown_it", reason="no CommonMark parser is installed")
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    document = f"| a | b |\n| --- | --- |\n| {markdown(name)} | end |\n\n- {markdown(name)}\n"
    tokens = parser.parse(document)
    inline = [token for token in tokens if token.type == "inline"]
    assert [token.type for token in tokens].count("tr_open") == 2
    assert [token.type for token in tokens].count("list_item_open") == 1
    assert [token.type for token in tokens].count("heading_open") == 0
    blank = not visible(name).strip()
    assert len(inline) == (4 if blank else 5)
    for token in [] if blank else [inline[2], inline[4]]:
        assert {child.type for child in token.children or []} <= {"text", "text_special"}
        shown = "".join(child.content for child in token.children or [])
        assert _bare(shown) == visible(name).strip()


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_makes_no_links(name: str) -> None:
    """GitHub makes links of bare addresses: the letters before the colon and the point are kept from them."""
    assert not re.search(r"(?i)(https?|mailto|xmpp|ftp):\S|www\.", markdown(name))


_COMMANDS = {"textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar"}
_COMMANDS |= {"textquotedbl", "textquotesingle", "textasciigrave", "ldots", "pm"}


@pytest.mark.parametrize("name", HOSTILE)
def test_latex_is_text_alone(name: str) -> None:
    written = latex(name)
    assert "\n" not in written
    assert set(re.findall(r"\\([A-Za-z]+)", written)) <= _COMMANDS
    bare = re.sub(r"\\[A-Za-z]+(\{\})?|\\[{}$&#_%]", "", written)
    assert not re.search(r"[\\$&#_%~^]", bare)
    assert bare.count("{") == bare.count("}")
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    # After the end of a row, these would be its argument; two of the others are another character.
    assert not re.match(r"[\[*]", written)
    assert "--" not in written
    assert all(character.isascii() or ord(character) < 0x180 for character in written)


def test_what_names_look_like() -> None:
    assert latex("lora_ttt, 50 %") == r"lora\_ttt, 50 \%"
    assert latex("caf\u00e9 \u732b") == "caf\u00e9 {[}U+732B{]}"
    assert markdown("lora_ttt: 81.25") == r"lora\_ttt: 81.25"
    assert markdown("-3.12 to +1") == "-3.12 to +1"
    assert html("a<b") == "a&lt;b"
    assert visible("a\nb\u202ec") == "a b[U+202E]c"
    assert html("\u05e9") == "\u2068\u05e9\u2069"
