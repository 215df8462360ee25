# SPDX-License-Identifier: MIT
"""The recipes in packaging/ for other builders of packages, as far as they can be tried without
these: what they name is there, and what they say is what the rest of the repository says.

    recipes_test.py ROOT [HTTPLIB_DIR]

HTTPLIB_DIR is a folder with a whole httplib.h, as for -Dhttplib_dir.
"""
import ast
import configparser
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import types
import unittest

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
GIVEN = [f"-DSCHEDULER_HTTPLIB_DIR={sys.argv[2]}"] if len(sys.argv) > 2 and sys.argv[2] else []
del sys.argv[1:3]
PACKAGING = ROOT / "packaging"
VERSION = re.search(r'#define SCHEDULER_VERSION "(.*)"',
                    (ROOT / "scheduler.hpp").read_text(encoding="utf-8"))[1]


def read(path):
    return (PACKAGING / path).read_text(encoding="utf-8")


def wrap(name):
    """The version, the address and the digest of what a wrap downloads."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / f"subprojects/{name}.wrap")
    file = parser["wrap-file"]
    return file["directory"].rpartition("-")[2], file["source_url"], file["source_hash"]


class TestCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def run_command(self, *command, **options):
        done = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=120, **options)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:])
        return done.stdout

    def need_cmake(self):
        if not shutil.which("cmake"):
            self.assertNotIn("TESTS_PACKAGING", os.environ)
            self.skipTest("there is no cmake")


class Vcpkg(TestCase):
    def test_the_manifest_has_this_version(self):
        manifest = json.loads(read("vcpkg/task-scheduler/vcpkg.json"))
        self.assertEqual((manifest["name"], manifest["version"]), ("task-scheduler", VERSION))
        self.assertEqual(set(manifest["features"]), {"http", "tool"})

    def test_the_port_installs_this_copy(self):
        self.need_cmake()
        calls = ("check_features", "cmake_configure", "cmake_install", "copy_tools",
                 "install_copyright")
        stubs = "".join(f"function(vcpkg_{name})\nmessage(\"{name} ${{ARGV}}\")\nendfunction()\n"
                        for name in calls)
        port = PACKAGING / "vcpkg/task-scheduler"
        script = self.write("port.cmake", "cmake_minimum_required(VERSION 3.16)\n"
                            f"set(CURRENT_PORT_DIR {port})\nset(FEATURES core tool)\n"
                            f"{stubs}include({port}/portfile.cmake)\n")
        told = self.run_command("cmake", "-P", script)
        self.assertEqual(re.findall(r"(?m)^(\w+) ", told), list(calls))
        self.assertIn(f"SOURCE_PATH;{ROOT};", told)
        self.assertIn(f"FILE_LIST;{ROOT}/LICENSE\n", told)


class Conan(TestCase):
    """The recipe, with a Conan that has nothing but its names."""

    def recipe(self):
        names = {"": ["ConanFile"], ".tools.build": ["check_min_cppstd"], ".tools": [],
                 ".tools.cmake": ["CMake", "CMakeDeps", "CMakeToolchain", "cmake_layout"],
                 ".tools.files": ["copy", "load"]}
        for module, its in names.items():
            made = types.ModuleType("conan" + module)
            for name in its:
                setattr(made, name, type(name, (), {}))
            sys.modules["conan" + module] = made
            self.addCleanup(sys.modules.pop, "conan" + module)
        self.copied = []
        sys.modules["conan.tools.files"].load = (
            lambda _, path: pathlib.Path(path).read_text(encoding="utf-8"))
        sys.modules["conan.tools.files"].copy = (
            lambda _, pattern, source, target: self.copied.append((pattern, source)))
        text = read("conan/conanfile.py")
        scope = {}
        exec(compile(ast.parse(text), "conanfile.py", "exec"), scope)  # pylint: disable=exec-used
        recipe = scope["TaskScheduler"]()
        recipe.recipe_folder = str(PACKAGING / "conan")
        recipe.export_sources_folder = str(self.folder)
        return recipe

    def test_it_has_this_version_and_exports_what_cmake_needs(self):
        recipe = self.recipe()
        recipe.set_version()
        self.assertEqual(recipe.version, VERSION)
        recipe.export_sources()
        for pattern, source in self.copied:
            found = list(pathlib.Path(source).glob(pattern))
            self.assertTrue(found, pattern)
            for path in found:
                path = path.resolve()
                copy = self.folder / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
        self.need_cmake()
        self.run_command("cmake", "-S", self.folder, "-B", self.folder / "build",
                         "-DSCHEDULER_BINARY=ON", *GIVEN)


@unittest.skipUnless(shutil.which("make"), "there is no make")
class OpenWrt(TestCase):
    """The package's Makefile, with a build system that has nothing but its names."""
    MAKEFILE = PACKAGING / "openwrt/task-scheduler/Makefile"

    def make(self, *targets):
        self.write("rules.mk", "BUILD_DIR=$(TOPDIR)\nDL_DIR=$(TOPDIR)/dl\nCP=cp -fpR\n"
                   "TAR=@echo unpacks\nINSTALL_DIR=install -d\nINSTALL_BIN=install -m 755\n"
                   "PKG_INSTALL_DIR=$(TOPDIR)/installed\n")
        self.write("package.mk", "define Download\n$(eval $(Download/$(1)))\n"
                   "$$(info $(1) $(URL)/$(URL_FILE) $(HASH))\nendef\n"
                   "define BuildPackage\nprepare:\n\t$$(Build/Prepare)\ninstall:\n"
                   "\t$$(call Package/$(1)/install,$$(TOPDIR)/root)\n"
                   "options:\n\t@echo $$(CMAKE_OPTIONS)\nendef\n")
        self.write("cmake.mk", "")
        return self.run_command("make", "--no-print-directory", f"TOPDIR={self.folder}",
                                f"INCLUDE_DIR={self.folder}", *targets, cwd=self.MAKEFILE.parent)

    def test_it_has_this_version_and_downloads_what_the_wraps_do(self):
        self.assertIn(f"\nPKG_VERSION:={VERSION}\n", self.MAKEFILE.read_text(encoding="utf-8"))
        told = self.make("options")
        for name in ("cpp-httplib", "picojson"):
            version, url, digest = wrap(name)
            self.assertIn(f"{name} {url} {digest}\n", told)
            self.assertIn(f"/{name}-{version}", told.splitlines()[-1])

    def test_what_it_takes_of_this_copy_is_all_that_cmake_needs(self):
        self.make("prepare")
        build = self.folder / f"task-scheduler-{VERSION}"
        self.need_cmake()
        self.run_command("cmake", "-S", build, "-B", build, "-DSCHEDULER_BINARY=ON", *GIVEN)
        self.write("installed/usr/bin/task-scheduler", "")
        self.make("install")
        self.assertTrue((self.folder / "root/usr/bin/task-scheduler").is_file())
        self.assertTrue((self.folder / "root/etc/init.d/task-scheduler").is_file())


class Yocto(TestCase):
    RECIPES = PACKAGING / "yocto/recipes-scheduler"

    def test_it_has_this_version_and_downloads_what_the_wraps_do(self):
        for name in ("cpp-httplib", "picojson"):
            version, url, digest = wrap(name)
            text = (self.RECIPES / f"{name}_{version}.bb").read_text(encoding="utf-8")
            self.assertIn(url.replace(version, "${PV}") + ";", text)
            self.assertIn(f'"{digest}"', text)
        text = (self.RECIPES / f"task-scheduler_{VERSION}.bb").read_text(encoding="utf-8")
        digest = hashlib.md5((ROOT / "LICENSE").read_bytes()).hexdigest()
        self.assertIn(f"md5={digest}", text)
        self.assertEqual((self.RECIPES / re.search(r"THISDIR}/([./]+)", text)[1]).resolve(), ROOT)
        options = (ROOT / "meson_options.txt").read_text(encoding="utf-8")
        for option in re.findall(r"-D(\w+)=", text):
            self.assertIn(f"option('{option}'", options)

    def test_its_functions_are_shell(self):
        for recipe in self.RECIPES.glob("*.bb"):
            text = recipe.read_text(encoding="utf-8")
            for function in re.findall(r"(?ms)^\w+\(\) \{.*?^\}$", text):
                self.run_command("bash", "-n", "-c", function)


class Wrap(TestCase):
    def test_it_provides_what_a_project_asks_for(self):
        parser = configparser.ConfigParser()
        parser.read(PACKAGING / "meson/scheduler.wrap")
        self.assertEqual(parser["provide"]["dependency_names"],
                         "scheduler, scheduler-postgres")
        self.assertEqual(parser["wrap-git"]["url"], "URL")


if __name__ == "__main__":
    unittest.main()
