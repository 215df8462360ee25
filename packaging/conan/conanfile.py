# SPDX-License-Identifier: MIT
"""A recipe of Conan 2, which packages the copy that it lies in: conan create packaging/conan."""
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load

SOURCES = ("scheduler.hpp", "main.cpp", "cli/*", "page/*", "postgres/*", "packaging/cmake/*", "CMakeLists.txt",
           "LICENSE")


class TaskScheduler(ConanFile):
    name = "task-scheduler"
    description = "A one-time task scheduler in one C++17 header"
    license = "MIT"
    topics = ("scheduler", "header-only", "http")
    settings = "os", "arch", "compiler", "build_type"
    options = {"http": [True, False], "tool": [True, False]}
    default_options = {"http": True, "tool": False, "cpp-httplib/*:with_openssl": True}

    @property
    def _root(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        header = load(self, os.path.join(self._root, "scheduler.hpp"))
        self.version = re.search(r'#define SCHEDULER_VERSION "([^"]+)"', header)[1]

    def export_sources(self):
        for pattern in SOURCES:
            copy(self, pattern, self._root, self.export_sources_folder)

    def requirements(self):
        self.requires("picojson/1.3.0", transitive_headers=True)
        if self.options.http or self.options.tool:
            self.requires("cpp-httplib/[>=0.11.4]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 17)

    def layout(self):
        cmake_layout(self)

    def package_id(self):
        if not self.options.tool:  # a header is the same everywhere
            self.info.clear()

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables["SCHEDULER_BINARY"] = bool(self.options.tool)
        toolchain.cache_variables["SCHEDULER_POSTGRES"] = False  # of the program
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        # find_package(scheduler) reads the file that is installed with the header.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("share", "cmake", "scheduler")]
        self.cpp_info.bindirs = ["bin"] if self.options.tool else []
        self.cpp_info.libdirs = []
