// SPDX-License-Identifier: MIT
//
// Preloaded, it makes each write to a file named tasks.jsonl take as many milliseconds
// more as the file WRITES_FILE says at that moment, as a kernel does that throttles a
// writer whose disk is behind.  All other writes stay quick.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void wait_for_the_disk(int fd) {
    static const char journal[] = "/tasks.jsonl";
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t size = readlink(link, path, sizeof path);
    const ssize_t end = sizeof journal - 1;
    if (size < end || memcmp(path + size - end, journal, (size_t)end) != 0) return;
    FILE *file = fopen(getenv("WRITES_FILE"), "r");
    if (!file) return;
    unsigned milliseconds = 0;
    if (fscanf(file, "%u", &milliseconds) == 1) usleep(1000 * milliseconds);
    fclose(file);
}

typedef ssize_t (*Pwrite)(int, const void *, size_t, off_t);

// The one or the other, as the program was compiled.
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    wait_for_the_disk(fd);
    return ((Pwrite)dlsym(RTLD_NEXT, "pwrite"))(fd, from, size, at);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    wait_for_the_disk(fd);
    return ((Pwrite)dlsym(RTLD_NEXT, "pwrite64"))(fd, from, size, at);
}
