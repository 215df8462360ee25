# SPDX-License-Identifier: MIT
#
# What find_package(scheduler) reads, and CMakeLists.txt as well.  It makes these targets:
#
#   scheduler::scheduler   the header, without HTTP
#   scheduler::http        the same with HTTP, if the component `http` is asked for
#   scheduler::postgres    the journal in PostgreSQL, if the component `postgres` is
#
# Where picojson.h, httplib.h and libpq are is found out, or said by these variables:
#
#   SCHEDULER_PICOJSON_DIR   the folder of picojson.h
#   SCHEDULER_HTTPLIB_DIR    the folder of an httplib.h that is used header-only
#   SCHEDULER_OPENSSL        with SCHEDULER_HTTPLIB_DIR: https, and signatures of webhooks
#   SCHEDULER_LIBPQ_DIR      the folder of libpq-fe.h
#   SCHEDULER_LIBPQ_LIBRARY  the library itself

cmake_minimum_required(VERSION 3.16)
include(CheckCXXSourceCompiles)

# CMakeLists.txt says where the header is, and that its targets are for every folder of the project.
if(NOT scheduler_header_dir)
  get_filename_component(scheduler_include "${CMAKE_CURRENT_LIST_DIR}/../../../include" ABSOLUTE)
  set(scheduler_scope "")
else()
  set(scheduler_include "${scheduler_header_dir}")
  set(scheduler_scope GLOBAL)
endif()

# The first reason counts.
macro(scheduler_is_missing reason)
  if(NOT scheduler_NOT_FOUND_MESSAGE)
    set(scheduler_NOT_FOUND_MESSAGE "${reason}")
  endif()
  set(scheduler_FOUND FALSE)
endmacro()

set(scheduler_FOUND TRUE)
set(scheduler_NOT_FOUND_MESSAGE "")

find_path(SCHEDULER_PICOJSON_DIR NAMES picojson/picojson.h picojson.h)
find_package(Threads QUIET)
if(NOT SCHEDULER_PICOJSON_DIR)
  scheduler_is_missing(
    "picojson.h is missing (Debian: picojson-dev); -DSCHEDULER_PICOJSON_DIR=FOLDER says where it \
is")
elseif(NOT EXISTS "${SCHEDULER_PICOJSON_DIR}/picojson/picojson.h"
    AND NOT EXISTS "${SCHEDULER_PICOJSON_DIR}/picojson.h")
  scheduler_is_missing(
    "there is no picojson.h in ${SCHEDULER_PICOJSON_DIR}, which SCHEDULER_PICOJSON_DIR says")
elseif(NOT EXISTS "${scheduler_include}/scheduler.hpp")
  scheduler_is_missing("${scheduler_include}/scheduler.hpp is missing")
elseif(NOT Threads_FOUND)
  scheduler_is_missing("there are no threads")
elseif(NOT TARGET scheduler::scheduler)
  add_library(scheduler::scheduler INTERFACE IMPORTED ${scheduler_scope})
  target_include_directories(scheduler::scheduler INTERFACE
    "${scheduler_include}" "${SCHEDULER_PICOJSON_DIR}")
  target_compile_features(scheduler::scheduler INTERFACE cxx_std_17)
  target_link_libraries(scheduler::scheduler INTERFACE Threads::Threads)
  # Whoever uses scheduler::http, too, has HTTP: that sets the property of its user.
  target_compile_definitions(scheduler::scheduler INTERFACE
    $<$<NOT:$<BOOL:$<TARGET_PROPERTY:SCHEDULER_HTTP>>>:SCHEDULER_NO_HTTP>)
  # Where the processor has no instructions for some of them, a library has functions.
  check_cxx_source_compiles("
    #include <atomic>
    #include <cstdint>
    std::atomic<std::uint64_t> large;
    std::atomic<std::uint8_t> small;
    int main() { return static_cast<int>(large.fetch_add(1) + small.exchange(1)); }"
    SCHEDULER_ATOMICS_NEED_NO_LIBRARY)
  if(NOT SCHEDULER_ATOMICS_NEED_NO_LIBRARY)
    target_link_libraries(scheduler::scheduler INTERFACE atomic)
  endif()
  if(CMAKE_SIZEOF_VOID_P EQUAL 4)
    target_compile_definitions(scheduler::scheduler INTERFACE _FILE_OFFSET_BITS=64)
  endif()
endif()

# cpp-httplib: a given folder, else a target or a package of it, else what pkg-config knows, which
# Debian has, else a bare header.
macro(scheduler_find_httplib)
  set(scheduler_httplib "")
  set(scheduler_httplib_flags "")
  if(NOT SCHEDULER_HTTPLIB_DIR AND NOT TARGET httplib::httplib)
    find_package(httplib CONFIG QUIET)
    find_package(PkgConfig QUIET)
    if(NOT TARGET httplib::httplib AND PkgConfig_FOUND)
      pkg_check_modules(SCHEDULER_HTTPLIB QUIET IMPORTED_TARGET GLOBAL cpp-httplib)
    endif()
  endif()
  if(NOT SCHEDULER_HTTPLIB_DIR AND TARGET httplib::httplib)
    set(scheduler_httplib httplib::httplib)
  elseif(NOT SCHEDULER_HTTPLIB_DIR AND TARGET PkgConfig::SCHEDULER_HTTPLIB)
    set(scheduler_httplib PkgConfig::SCHEDULER_HTTPLIB)
    set(scheduler_httplib_flags "${SCHEDULER_HTTPLIB_CFLAGS_OTHER}")
  else()
    find_path(SCHEDULER_HTTPLIB_DIR NAMES httplib.h)
    if(SCHEDULER_OPENSSL)
      set(scheduler_httplib_flags -DCPPHTTPLIB_OPENSSL_SUPPORT)
    endif()
  endif()
  if(scheduler_httplib_flags MATCHES CPPHTTPLIB_OPENSSL_SUPPORT)
    find_package(OpenSSL QUIET)
    list(APPEND scheduler_httplib OpenSSL::SSL OpenSSL::Crypto)
  endif()
endmacro()

# Distributions split httplib.h into declarations and a library, which is there for their machines.
macro(scheduler_check_httplib)
  if(SCHEDULER_HTTPLIB_DIR OR CMAKE_CROSSCOMPILING)
    set(CMAKE_REQUIRED_INCLUDES ${SCHEDULER_HTTPLIB_DIR})
    set(CMAKE_REQUIRED_DEFINITIONS ${scheduler_httplib_flags})
    set(CMAKE_REQUIRED_LIBRARIES ${scheduler_httplib} Threads::Threads)
    check_cxx_source_compiles(
      "#include <httplib.h>\nint main() { httplib::Server server; }" SCHEDULER_HTTPLIB_LINKS)
    foreach(scheduler_name IN ITEMS INCLUDES DEFINITIONS LIBRARIES)
      unset(CMAKE_REQUIRED_${scheduler_name})
    endforeach()
    if(NOT SCHEDULER_HTTPLIB_LINKS)
      unset(SCHEDULER_HTTPLIB_LINKS CACHE)  # looked at again, where another one is given
      set(scheduler_http_problem "the httplib.h that was found does not link: it only declares \
what a library of this machine has, or a library is missing; -DSCHEDULER_HTTPLIB_DIR=FOLDER says \
where the httplib.h of cpp-httplib's own repository is")
    endif()
  endif()
endmacro()

if("http" IN_LIST scheduler_FIND_COMPONENTS AND scheduler_FOUND)
  if(NOT TARGET scheduler::http)
    set(scheduler_http_problem "")
    scheduler_find_httplib()
    if(scheduler_httplib MATCHES "OpenSSL::" AND NOT OpenSSL_FOUND)
      set(scheduler_http_problem "OpenSSL is missing, which cpp-httplib needs (Debian: libssl-dev)")
    elseif(NOT SCHEDULER_HTTPLIB_DIR AND NOT scheduler_httplib)
      set(scheduler_http_problem "httplib.h is missing (Debian: libcpp-httplib-dev); \
-DSCHEDULER_HTTPLIB_DIR=FOLDER says where it is")
    elseif(SCHEDULER_HTTPLIB_DIR AND NOT EXISTS "${SCHEDULER_HTTPLIB_DIR}/httplib.h")
      set(scheduler_http_problem "there is no httplib.h in ${SCHEDULER_HTTPLIB_DIR}, which \
SCHEDULER_HTTPLIB_DIR says")
    else()
      scheduler_check_httplib()
    endif()
    if(NOT scheduler_http_problem)
      add_library(scheduler::http INTERFACE IMPORTED ${scheduler_scope})
      set_target_properties(scheduler::http PROPERTIES
        INTERFACE_SCHEDULER_HTTP ON COMPATIBLE_INTERFACE_BOOL SCHEDULER_HTTP)
      target_link_libraries(scheduler::http INTERFACE scheduler::scheduler ${scheduler_httplib})
      target_compile_options(scheduler::http INTERFACE ${scheduler_httplib_flags})
      if(SCHEDULER_HTTPLIB_DIR)
        target_include_directories(scheduler::http INTERFACE "${SCHEDULER_HTTPLIB_DIR}")
      endif()
    endif()
  endif()
endif()

if("postgres" IN_LIST scheduler_FIND_COMPONENTS AND scheduler_FOUND)
  set(scheduler_postgres_problem "")
  find_path(SCHEDULER_LIBPQ_DIR NAMES libpq-fe.h PATH_SUFFIXES postgresql pgsql)
  find_library(SCHEDULER_LIBPQ_LIBRARY NAMES pq)
  if(NOT EXISTS "${SCHEDULER_LIBPQ_DIR}/libpq-fe.h" OR NOT EXISTS "${SCHEDULER_LIBPQ_LIBRARY}")
    set(scheduler_postgres_problem "libpq is missing (Debian: libpq-dev); \
-DSCHEDULER_LIBPQ_DIR=FOLDER says where libpq-fe.h is, and -DSCHEDULER_LIBPQ_LIBRARY=FILE which \
library")
  elseif(NOT TARGET scheduler::postgres)
    add_library(scheduler::postgres INTERFACE IMPORTED ${scheduler_scope})
    target_link_libraries(scheduler::postgres INTERFACE
      scheduler::scheduler "${SCHEDULER_LIBPQ_LIBRARY}")
    target_include_directories(scheduler::postgres INTERFACE "${SCHEDULER_LIBPQ_DIR}")
  endif()
endif()

foreach(scheduler_component IN LISTS scheduler_FIND_COMPONENTS)
  set(scheduler_${scheduler_component}_FOUND FALSE)
  if(TARGET scheduler::${scheduler_component})
    set(scheduler_${scheduler_component}_FOUND TRUE)
  elseif(scheduler_FIND_REQUIRED_${scheduler_component})
    if(scheduler_component STREQUAL "http")
      scheduler_is_missing("${scheduler_http_problem}")
    elseif(scheduler_component STREQUAL "postgres")
      scheduler_is_missing("${scheduler_postgres_problem}")
    else()
      scheduler_is_missing(
        "there is no component ${scheduler_component}; there are http and postgres")
    endif()
  endif()
endforeach()
