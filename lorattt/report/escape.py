"""Names of classes, files and methods escaped for LaTeX and Markdown; for HTML, the templates escape.

A name may contain anything. Its escaped text is on one line, and the format reads it as text alone. White space
becomes a space, other invisible characters become their number, such as ``[U+202E]``: a mark that changes the direction
of writing would also change it for what follows the name.
"""

import re
import unicodedata

_FIRST_STRONG, _POP = "\u2068", "\u2069"  # text between them does not change the direction of the text around it
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))  # control, format, surrogate, private, none, breaks
_JOINERS = "\u200c\u200d"  # join letters, which many scripts need

_COMMANDS = {"\\": "textbackslash", "^": "textasciicircum", "~": "textasciitilde", "<": "textless", ">": "textgreater"}
_COMMANDS |= {"|": "textbar", '"': "textquotedbl", "'": "textquotesingle", "`": "textasciigrave", "\u2026": "ldots"}
_LATEX = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    **{character: f"\\{name}{{}}" for character, name in _COMMANDS.items()},
    # After the end of a table's row, LaTeX reads "[" and "*" as its argument; two "-" are a dash.
    **{character: f"{{{character}}}" for character in "[]*-"},
    "\u00b1": r"$\pm$",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~&!#$@])")
# What turns a line into a list, a rule or a heading, and a word into a link.
_RULE = re.compile(r"^([-+=]+)(?=\s|$)")
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
_LINK = re.compile(r"(www)(\.)|(\w)(:)(?=\S)", re.IGNORECASE)


def visible(text: str) -> str:
    """The text on one line: white space is a space, an invisible character its number in brackets."""
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
    return isolated(shown)


def isolated(text: str) -> str:
    """Text whose right-to-left letters do not change the direction of the text around it."""
    turned = any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in text)
    return f"{_FIRST_STRONG}{text}{_POP}" if turned else text
