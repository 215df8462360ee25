// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <scheduler.hpp>
#include <string>

namespace version_test {

TEST_CASE("the header's version is the build's") {
    const std::string build = SCHEDULER_BUILD_VERSION;
    CHECK(build == SCHEDULER_VERSION);
    CHECK(build == std::to_string(SCHEDULER_VERSION_MAJOR) + "." +
                       std::to_string(SCHEDULER_VERSION_MINOR) + "." +
                       std::to_string(SCHEDULER_VERSION_PATCH));
}

}  // namespace version_test
