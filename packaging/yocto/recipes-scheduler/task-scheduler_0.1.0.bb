# SPDX-License-Identifier: MIT
#
# Builds the program of the copy that this layer lies in.

SUMMARY = "Keeps JSON messages and emits each at its due time"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=9d09610d5819719ded700cfe9069c2c9"

inherit externalsrc meson pkgconfig systemd

EXTERNALSRC = "${THISDIR}/../../.."
EXTERNALSRC_BUILD = "${WORKDIR}/build"

DEPENDS = "cpp-httplib picojson"
EXTRA_OEMESON = " \
    -Dtests=disabled \
    -Dexamples=disabled \
    -Dhttplib_dir=${STAGING_INCDIR} \
    -Dsystemd_unit_dir=${systemd_system_unitdir} \
"

PACKAGECONFIG ??= "openssl"
PACKAGECONFIG[openssl] = "-Dopenssl=enabled,-Dopenssl=disabled,openssl"
PACKAGECONFIG[postgres] = "-Dpostgres=enabled,-Dpostgres=disabled,postgresql"

# The unit wants a secret in /etc/task-scheduler/secret, which an image or its owner puts there.
SYSTEMD_SERVICE:${PN} = "task-scheduler.service"
SYSTEMD_AUTO_ENABLE = "disable"

FILES:${PN}-dev += "${datadir}/cmake ${datadir}/pkgconfig"
FILES:${PN} += " \
    ${datadir}/fish \
    ${datadir}/zsh \
    ${systemd_system_unitdir}/task-scheduler.socket \
"
