#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes one document of the page's files, and of that a C++ source.

    embed.py index.html [page.cpp]     without page.cpp it prints the document

The document's policy names the digests of its style and scripts, so that no other one runs.
"""
import base64
import hashlib
import pathlib
import re
import sys


def part(path):
    """A file as it stands in the document, which tells its licence once, and is strict once."""
    return path.read_text(encoding="utf-8").split("\n", 1)[1]


def document(index):
    """index.html with its style and, as one, its scripts in it, and their digests in its policy."""
    html = index.read_text(encoding="utf-8")
    digests = {"style": [], "script": []}

    def put(tag, names):
        text = "".join(part(index.parent / name) for name in names)
        assert f"</{tag}" not in text.lower(), f"{' or '.join(names)} would end its element"
        digest = hashlib.sha256(text.encode()).digest()
        digests[tag].append(f"'sha256-{base64.b64encode(digest).decode()}'")
        return f"<{tag}>{text}</{tag}>\n"

    html = re.sub(r'<link rel="stylesheet" href="([\w.]+)">\n', lambda m: put("style", [m[1]]), html)
    html = re.sub(r'(?:<script src="[\w.]+"></script>\n)+',
                  lambda m: put("script", re.findall(r'src="([\w.]+)"', m[0])), html)
    for tag, its in digests.items():
        html = html.replace(f"{tag}-src 'self'", f"{tag}-src {' '.join(its)}", 1)
    return html


def source(html):
    """A C++ source that defines `cli::page_text`."""
    data = html.encode()
    rows = (", ".join(map(str, data[i:i + 24])) for i in range(0, len(data), 24))
    return ("namespace cli {\nextern const unsigned char page_text[];\n"
            "extern const unsigned long page_bytes;\n"
            "const unsigned char page_text[] = {\n" + ",\n".join(rows) + "};\n"
            f"const unsigned long page_bytes = {len(data)};\n}}  // namespace cli\n")


if __name__ == "__main__":
    made = document(pathlib.Path(sys.argv[1]))
    if len(sys.argv) > 2:
        pathlib.Path(sys.argv[2]).write_text(source(made), encoding="utf-8")
    else:
        sys.stdout.write(made)
