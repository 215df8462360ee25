# SPDX-License-Identifier: MIT
"""Counts test cases in Meson's testlog.json and prints: passed failed skipped.

A program that says how many cases it ran is believed (doctest, unittest, or a line "N passed, N
failed"); any other counts as one case.  One that failed without a failed case, by a crash or a
sanitizer's report, counts as one failure more.
"""
import json
import re
import sys


def cases(text):
    """The (passed, failed, skipped) that the output claims, or None."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    # What a filter of doctest leaves out is none of the program's cases.
    found = re.findall(r"test cases:\s*\d+ \|\s*(\d+) passed \|\s*(\d+) failed()", text)
    found += re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", text, re.M)
    if found:
        passed, failed, skipped = found[-1]
        return int(passed), int(failed), int(skipped or 0)
    ran = re.search(r"^Ran (\d+) tests? in", text, re.M)
    if ran:
        bad = sum(int(n) for n in re.findall(r"\b(?:failures|errors)=(\d+)", text))
        skipped = sum(int(n) for n in re.findall(r"\bskipped=(\d+)", text))
        return int(ran[1]) - bad - skipped, bad, skipped
    return None


def main():
    total = [0, 0, 0]
    with open(sys.argv[1], encoding="utf-8") as log:
        for line in log:
            test = json.loads(line)
            good = test["result"] in ("OK", "EXPECTEDFAIL", "SKIP")
            counts = cases(test.get("stdout", "") + "\n" + test.get("stderr", ""))
            if counts is None:
                skip = test["result"] == "SKIP"
                counts = (int(good and not skip), 0, int(skip))
            if not good and counts[1] == 0:
                counts = (counts[0], 1, counts[2])
            total = [a + b for a, b in zip(total, counts)]
    print(*total)


main()
