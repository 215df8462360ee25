# SPDX-License-Identifier: MIT

SUMMARY = "A C++ HTTP server and client library, header-only"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=1321bdf796c67e3a8ab8e352dd81474b"

SRC_URI = "https://github.com/yhirose/cpp-httplib/archive/refs/tags/v${PV}.tar.gz;downloadfilename=${BP}.tar.gz"
SRC_URI[sha256sum] = "185af9587e270de9a3bfee234c6740f02e82265da33c7a41f97e02ee42f979d2"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 644 ${S}/httplib.h ${D}${includedir}/httplib.h
}

ALLOW_EMPTY:${PN} = "1"
