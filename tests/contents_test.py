# SPDX-License-Identifier: MIT
"""Holds the contents list at the top of scheduler.hpp against its section banners, and main.cpp
to the length of a tour."""
import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ".")
HEADER = ROOT / "scheduler.hpp"
BINARY = [ROOT / "main.cpp", *sorted((ROOT / "cli").glob("*.hpp"))]
BANNER = re.compile(r"^// =+\n//  ?(\d+)\. (.+)\n// =+\n", re.M)
PART = re.compile(r"^// ---- (\d+)\.(\d+) .+ -+$", re.M)
CORE = range(2, 12)  # the sections that are held to parts of at most 600 lines


class Contents(unittest.TestCase):
    def setUp(self):
        self.text = HEADER.read_text(encoding="utf-8")
        self.banners = [(int(number), name) for number, name in BANNER.findall(self.text)]

    def test_contents_list_names_every_section_in_order(self):
        listing = self.text.split("\n// Contents", 1)[1].split("\n#", 1)[0]
        listed = re.findall(r"^// +(\d+)\. (\w[\w ]*?)(?:  .*)?$", listing, re.M)
        self.assertEqual([(int(number), name) for number, name in listed], self.banners)

    def test_sections_are_numbered_upwards(self):
        numbers = [number for number, _ in self.banners]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertTrue(numbers)

    def test_parts_are_numbered_upwards_within_their_section(self):
        for start, end, number in self.sections():
            parts = [(int(section), int(part))
                     for section, part in PART.findall(self.text[start:end])]
            self.assertEqual(parts, [(number, n) for n in range(1, len(parts) + 1)])

    def test_no_part_of_the_core_is_longer_than_600_lines(self):
        for start, end, number in self.sections():
            if number not in CORE:
                continue
            section = self.text[start:end]
            marks = [0, *(found.start() for found in PART.finditer(section)), len(section)]
            for begin, stop in zip(marks, marks[1:]):
                lines = section[begin:stop].count("\n")
                with self.subTest(section=number, part=section[begin:begin + 60]):
                    self.assertLessEqual(lines, 600)

    def sections(self):
        """Where each section begins and ends, and its number."""
        starts = [found.start() for found in BANNER.finditer(self.text)]
        return zip(starts, [*starts[1:], len(self.text)], [number for number, _ in self.banners])

    def test_lines_are_at_most_100_wide_and_without_tabs(self):
        bad = [(path.name, n) for path in (HEADER, *BINARY)
               for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
               if len(line) > 100 or "\t" in line]
        self.assertEqual(bad, [])

    def test_the_binary_uses_the_header_as_anybody_does(self):
        for path in BINARY:
            with self.subTest(path.name):
                self.assertNotIn("detail::", path.read_text(encoding="utf-8"))

    def test_main_is_a_tour_of_at_most_150_lines(self):
        self.assertLessEqual(len(BINARY[0].read_text(encoding="utf-8").splitlines()), 150)


unittest.main()
