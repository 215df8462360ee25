# SPDX-License-Identifier: MIT
"""Holds the page to what it promises without a browser: its size, and that it needs nothing else."""
import base64
import hashlib
import pathlib
import re
import sys
import unittest

sys.dont_write_bytecode = True
ROOT = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ".").resolve()
sys.path.insert(0, str(ROOT / "page"))
import embed  # noqa: E402

FILES = [path for path in sorted((ROOT / "page").iterdir()) if path.suffix in (".html", ".css", ".js")]


class Page(unittest.TestCase):
    def setUp(self):
        self.document = embed.document(ROOT / "page" / "index.html")

    def test_the_document_has_at_most_60_kib(self):
        self.assertLessEqual(len(self.document.encode()), 60 * 1024)

    def test_every_file_is_in_the_document_and_known_to_meson(self):
        build = (ROOT / "meson.build").read_text(encoding="utf-8")
        for path in FILES:
            with self.subTest(path.name):
                self.assertIn(f"'page/{path.name}'", build)
                if path.name != "index.html":
                    self.assertIn(embed.part(path), self.document)
                    self.assertIn("SPDX-License-Identifier: MIT", path.read_text().split("\n")[0])

    def test_its_scripts_are_strict(self):
        self.assertRegex(self.document, r"<script>(//[^\n]*\n)*'use strict';\n")

    def test_nothing_is_asked_of_another_server(self):
        urls = set(re.findall(r"[a-z]+://[^\s'\"`<>)]*", self.document))
        self.assertEqual(urls, {"http://www.w3.org/2000/svg"}, "a namespace is only a name")
        self.assertNotIn("src=", self.document)
        self.assertEqual(re.findall(r"<link [^>]*>", self.document), ['<link rel="icon" href="data:,">'])

    def test_the_policy_names_the_digest_of_each_script_and_style_and_nothing_loose(self):
        policy = re.search(r'Security-Policy" content="([^"]*)"', self.document)[1]
        for tag in ("style", "script"):
            found = re.findall(f"<{tag}>(.*?)</{tag}>", self.document, re.S)
            digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                       for text in found]
            wanted = " ".join(f"'sha256-{digest}'" for digest in digests)
            self.assertIn(f"{tag}-src {wanted}", policy)
        self.assertNotIn("unsafe", policy)
        self.assertIsNone(re.search(r"\son\w+=|\sstyle=", self.document.split("<body>")[1]
                                    .split("<script>")[0]))

    def test_text_is_never_made_markup(self):
        for path in FILES:
            for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
                self.assertNotIn(way, path.read_text(encoding="utf-8"), path.name)

    def test_lines_are_at_most_110_wide_and_without_tabs(self):
        bad = [(path.name, n) for path in FILES
               for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
               if (len(line) > 110 and "Security-Policy" not in line) or "\t" in line]
        self.assertEqual(bad, [])


unittest.main()
