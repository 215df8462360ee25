# SPDX-License-Identifier: MIT

SUMMARY = "A JSON parser in one C++ header"
LICENSE = "BSD-2-Clause"
LIC_FILES_CHKSUM = "file://LICENSE;md5=29d6d693711f69885bbfe08072624f2e"

SRC_URI = "https://github.com/kazuho/picojson/archive/refs/tags/v${PV}.tar.gz;downloadfilename=${BP}.tar.gz"
SRC_URI[sha256sum] = "056805ca2691798f5545935a14bb477f2e1d827c9fb862e6e449dbea22801c7d"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 644 ${S}/picojson.h ${D}${includedir}/picojson.h
}

ALLOW_EMPTY:${PN} = "1"
