"""Names of classes, files and methods made harmless for LaTeX, Markdown and HTML.

A name may hold anything. Each function gives text that stays on one line, shows what the name holds, and is read by its
format as text alone. Characters that are not seen, line breaks and tabs among them, become a space or their number,
such as ``[U+202E]``: a mark that turns the direction of writing would turn what follows the name too.
"""

import html as _html
import re
import unicodedata

_FIRST_STRONG, _POP = "\u2068", "\u2069"  # what is between them has no say in the direction of what is around
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))  # control, format, surrogate, private, none, breaks
_JOINERS = "\u200c\u200d"  # of one letter to the next, which many scripts need

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "^": r"\textasciicircum{}",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    # After the end of a table's row, these would be read as its argument.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "-": "{-}",  # else two are a dash
    "\u00b1": r"$\pm$",
    "\u2026": r"\ldots{}",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~&!#$@])")
# What makes a list, a rule or a heading of a line, and what makes a link of a word.
_RULE = re.compile(r"^([-+=]+)(?=\s|$)")
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
_LINK = re.compile(r"(www)(\.)|(\w)(:)(?=\S)", re.IGNORECASE)
_LONGEST = 80


def shorten(text: str, longest: int = _LONGEST) -> str:
    """The text, its middle left out if it has more than ``longest`` characters."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}\u2026{text[len(text) - (longest - 1 - head) :]}"


def visible(text: str) -> str:
    """The text on one line: white space is a space, what is not seen is its number in brackets."""
    return "".join(_seen(character) for character in text)


def _seen(character: str) -> str:
    if character.isspace():
        return " "
    if unicodedata.category(character) in _UNSEEN and character not in _JOINERS:
        return f"[U+{ord(character):04X}]"
    return character


def latex(text: str) -> str:
    """For the text of a LaTeX document, a table's cell included.

    Letters beyond those of Western and Central Europe become their numbers: pdfLaTeX would stop at them.
    """
    return "".join(_LATEX.get(character) or _typeset(character) for character in visible(text))


def _typeset(character: str) -> str:
    letter = character.isalnum() and ord(character) < 0x180  # Latin-1 and Latin Extended-A
    return character if character.isascii() or letter else f"{{[}}U+{ord(character):04X}{{]}}"


def markdown(text: str) -> str:
    """For Markdown as GitHub reads it, a table's cell or a list's item included."""
    shown = _MARKDOWN.sub(r"\\\1", visible(text))
    shown = _LINK.sub(lambda found: "\\".join(part for part in found.groups() if part), shown)
    shown = _NUMBERED.sub(r"\1\\\2", _RULE.sub(r"\\\1", shown))
    return _isolated(shown)


def html(text: str) -> str:
    """For HTML, as text or as the value of an attribute in quotes."""
    return _isolated(_html.escape(visible(text), quote=True))


def _isolated(text: str) -> str:
    """Text with letters that are written from right to left, kept from turning what is around it."""
    turned = any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in text)
    return f"{_FIRST_STRONG}{text}{_POP}" if turned else text
