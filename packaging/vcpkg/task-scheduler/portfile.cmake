# SPDX-License-Identifier: MIT
#
# A port of vcpkg, to be used with --overlay-ports: it packages the copy that it lies in.

get_filename_component(SOURCE_PATH "${CURRENT_PORT_DIR}/../../.." ABSOLUTE)
vcpkg_check_features(OUT_FEATURE_OPTIONS options FEATURES tool SCHEDULER_BINARY)
set(VCPKG_BUILD_TYPE release)  # a header is the same in both

vcpkg_cmake_configure(SOURCE_PATH "${SOURCE_PATH}" OPTIONS ${options} -DSCHEDULER_POSTGRES=OFF)
vcpkg_cmake_install()
if("tool" IN_LIST FEATURES)
  vcpkg_copy_tools(TOOL_NAMES task-scheduler AUTO_CLEAN)
endif()
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
