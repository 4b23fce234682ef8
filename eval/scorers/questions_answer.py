"""What an answer to a yes/no question says: our grammar for any judge that talks, and those of two official scorers.

Ours takes yes or no, in any case and among any marks, as
    the whole answer                                      Yes.    **no**    "yes"
    the first word, before a mark or the end of its line  No, there is none.    after yes a blank will do: Yes it is
    what a label says, at the beginning or at the end     Answer: no    ... so the answer is yes.    {"answer": "no"}
    the last line                                         The car is blue.\\nNo
and refuses an answer that says neither, or both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from metabridge.eval.judges.asking import ParseError

_MARKS = r"[\W_]*"  # what may stand around a word, blanks and new lines among it
_END = r"(?![^\W_])"
_STOP = r"(?=[\W_]*$|[^\w\s'’-]|_|[ \t]*[\r\n]|[ \t]+[—–-])(?!\.\s*\d)"  # "no cars can be seen" may mean yes, and "no. 5" is a number
_WORD = rf"(yes{_END}|no{_END}{_STOP})"
_LABEL = rf"(?:answer|verdict|conclusion){_END}{_MARKS}(?:is{_END}{_MARKS})?"
_FORMS = [
    re.compile(form)
    for form in (
        rf"^{_MARKS}{_WORD}",
        rf"^{_MARKS}(?:the{_END}{_MARKS})?(?:final{_END}{_MARKS})?{_LABEL}{_WORD}",
        rf"(?<![^\W_]){_LABEL}(yes|no){_MARKS}$",
        rf"[\r\n][^\w\r\n]*_*(yes|no){_MARKS}$",
    )
]
_CHOICE = re.compile(rf"(?<![^\W_])(?:yes|no){_MARKS}(?:/|or|and|nor){_MARKS}(?:yes|no){_END}")  # what was asked, said again
_LAST = re.compile(rf"(?<![^\W_])(yes|no){_MARKS}$")  # too little to believe, enough to doubt what another form says


def tolerant(text: str) -> bool:
    """Raises ParseError where an answer has none of these forms, or contradicts itself."""
    text = unicodedata.normalize("NFKC", text).casefold()
    said = {found.group(1) for form in _FORMS if (found := form.search(text))}
    if not said:
        raise ParseError("it says neither yes nor no")
    if last := _LAST.search(text):
        said.add(last.group(1))
    if len(said) > 1 or _CHOICE.search(text):
        raise ParseError("it says both yes and no")
    return said == {"yes"}


def exact(text: str) -> bool | None:
    """DPG-Bench's: nothing but yes, in lower case, is a yes."""
    return text == "yes"


def word(text: str) -> bool | None:
    """T2I-CoReBench's: the word yes, else the word no, in lower case; None where there is neither, as in Yes."""
    if re.search(r"\byes\b", text):
        return True
    return False if re.search(r"\bno\b", text) else None


OFFICIAL: dict[str, Callable[[str], bool | None]] = {"exact": exact, "word": word}
