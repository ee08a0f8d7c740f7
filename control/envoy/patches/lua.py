"""Lua of users, kept from the host: Envoy's Lua has all of the standard libraries, those for files and processes among them.

What runs ahead of the user's first line takes them away. Binary chunks, by which a script could leave the interpreter, can't be loaded
either: the text ahead makes the whole a text, and nothing that loads another is left.
"""

from typing import Final

GONE: Final = (
    "io",
    "package",
    "require",
    "module",
    "dofile",
    "loadfile",
    "load",
    "loadstring",
    "debug",
    "jit",
    "ffi",
    "setfenv",
    "getfenv",
)
"""Globals that scripts don't have."""
_OWN_METATABLES: Final = (
    'do local found,kind=getmetatable,type getmetatable=function(one) if kind(one)=="table" then return found(one) end end end '
)
"""Those of tables alone: with that of one of Envoy's objects a script could have it destroyed while Envoy uses it (`__gc`)."""
KEPT_OF_OS: Final = ("time", "date", "clock", "difftime")
PRELUDE: Final = (
    "".join(f"{name}=nil " for name in GONE)
    + "string.dump=nil os={"
    + ",".join(f"{name}=os.{name}" for name in KEPT_OF_OS)
    + "} "
    + _OWN_METATABLES
)
"""One line without its end, so that Envoy's messages name the lines of the user's text."""


def confined(code: str) -> str:
    """A script that has no more than the language, texts, tables, numbers and time."""
    return PRELUDE + code
