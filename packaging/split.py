#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes of scheduler.hpp a header of declarations and a source file of function bodies.

    packaging/split.py FOLDER     writes FOLDER/scheduler.hpp and FOLDER/scheduler.cpp

A program with many files that include the header compiles them several times faster so: it has
FOLDER in its include path, compiles scheduler.cpp once, and links it, all with the same flags.

It relies on how scheduler.hpp is written. What begins at the beginning of a line is a directive, a
namespace, or a definition, which ends with the next `}` at the beginning of a line; a function that
is defined outside of its class begins with `inline`. What it does not know stays in the header.
"""
import pathlib
import re
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[1] / "scheduler.hpp"
NOTE = "// Made from scheduler.hpp by packaging/split.py.\n"
# The name of a function, with those of its classes, and the parenthesis of its parameters.
NAME = re.compile(r"[\s*&]((?:\w+::)*(?:~?\w+|operator[^\s\w]{1,3}))\(")
INLINE = re.compile(r"^((?:\[\[\w+\]\] )?)inline (?!constexpr |const |auto )")
# What only the header needs: the .cpp file includes it.
ONLY_FOR_HEADER = re.compile(r"#(define|undef|include|pragma|error)|#endif  // (SCHEDULER_HPP|C\+\+17)")


def is_whole(lines):
    """Whether a definition that begins with the first of these lines ends with the last."""
    last = lines[-1]
    if len(lines) == 1:
        return re.match(r"#|namespace |}|.*[;}]$", last)
    is_open = any(line.endswith("{") for line in lines)
    return last.startswith("}") if is_open else last.endswith((";", "}"))


def definitions(lines):
    """What begins at the beginning of a line, to its end, each with the comment above it."""
    comment, at = [], 0
    while at < len(lines):
        end = at + 1
        if not lines[at] or lines[at].startswith("//"):
            comment.append(lines[at])
        else:
            while not is_whole(lines[at:end]):
                end += 1
            yield comment, "\n".join(lines[at:end])
            comment = []
        at = end
    yield comment, ""


def signature_of(text):
    """What stands before a function's body, if this is a function's definition."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and char in "{;":
            return text[:at] if char == "{" else ""
    return ""


def without_defaults(signature):
    """The same without the values that parameters have when they are not given."""
    kept, depth, skips = "", 0, False
    for at, char in enumerate(signature):
        depth += (char in "([{") - (char in ")]}")
        skips = skips and not (depth == 0 or (depth == 1 and char == ","))
        skips = skips or (depth == 1 and signature.startswith(" = ", at))
        kept += "" if skips else char
    return kept


def split_function(text):
    """What of a definition is for the header, and what for the source file."""
    name = NAME.search(text)
    if not INLINE.match(text) or not name or "=" in text[:name.start()]:
        return text, ""
    text = INLINE.sub(r"\1", text)
    if "::" in name[1]:
        return "", text
    signature = signature_of(text)
    if not signature:
        return text, ""
    return signature.rstrip() + ";", without_defaults(signature) + text[len(signature):]


def split(text):
    top, rest = text.split("\nnamespace scheduler {\n", 1)
    header, source = [top], [NOTE + '\n#include "scheduler.hpp"\n']
    for comment, definition in definitions(("namespace scheduler {\n" + rest).split("\n")):
        if re.match(r"#|namespace |}  // namespace", definition):
            header += [*comment, definition]
            if not ONLY_FOR_HEADER.match(definition):
                source.append(definition)
            continue
        declaration, body = split_function(definition)
        # What is said of a function is said where it is declared, and of a member at its body.
        (header if declaration else source).extend(comment)
        header += [declaration] if declaration else []
        source += [body] if body else []
    return NOTE + "\n".join(header), "\n".join(source) + "\n"


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    header, source = split(SOURCE.read_text(encoding="utf-8"))
    (folder / "scheduler.hpp").write_text(header, encoding="utf-8")
    (folder / "scheduler.cpp").write_text(source, encoding="utf-8")


if __name__ == "__main__":
    main()
