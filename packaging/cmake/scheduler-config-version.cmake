# SPDX-License-Identifier: MIT
#
# Whether the header beside this is the version that find_package() is asked for: of the same minor
# version before 1.0, and of the same major version from then on, and not older.

file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/../../../include/scheduler.hpp" scheduler_version
  REGEX "^#define SCHEDULER_VERSION \"" LIMIT_COUNT 1)
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" PACKAGE_VERSION "${scheduler_version}")
string(REGEX MATCH "^(0\\.)?[0-9]+" scheduler_series "${PACKAGE_VERSION}")
string(REGEX MATCH "^(0\\.)?[0-9]+" scheduler_wanted "${PACKAGE_FIND_VERSION}")

if(PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION OR
    (scheduler_wanted AND NOT "${scheduler_wanted}" MATCHES "^0$" AND
     NOT scheduler_wanted STREQUAL scheduler_series))
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_VERSION VERSION_EQUAL PACKAGE_FIND_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
