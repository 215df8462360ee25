# SPDX-License-Identifier: MIT
"""The end-to-end tests: run.py BINARY WORKDIR [--long] [-k PATTERN]

They drive the real binary with the clients that people use.  WORKDIR is where npm
packages and journals go.  The last line is "N passed, N failed".
"""

import argparse
import os
import shutil
import subprocess
import sys
import unittest

import support


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('binary')
    parser.add_argument('workdir')
    parser.add_argument('--long', action='store_true')
    parser.add_argument('-k', action='append')
    options = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    support.BINARY = os.path.abspath(options.binary)
    support.WORK = os.path.abspath(options.workdir)
    support.LONG = options.long
    os.makedirs(support.WORK, exist_ok=True)
    for name in ('package.json', 'clients.mjs'):
        shutil.copy(os.path.join(here, name), support.WORK)
    subprocess.run(['npm', 'install', '--no-package-lock', '--no-audit', '--no-fund', '--silent'],
                   cwd=support.WORK, check=True, timeout=300)
    loader = unittest.TestLoader()
    if options.k:
        loader.testNamePatterns = [f'*{pattern}*' for pattern in options.k]
    tests = loader.discover(here, pattern='test_*.py')
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(tests)
    failed = len(result.failures) + len(result.errors)
    skipped = len(result.skipped)
    line = f'{result.testsRun - failed - skipped} passed, {failed} failed'
    print(line + (f', {skipped} skipped' if skipped else ''), flush=True)
    return 1 if failed or result.testsRun == 0 else 0


if __name__ == '__main__':
    sys.exit(main())
