// SPDX-License-Identifier: MIT
//
// Preloaded, it makes each read of a file named tasks.jsonl take READS_MS milliseconds more, as a
// slow disk does.  After six of them it waits for as long as there is a file READS_HOLD, if that is
// set.
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
    usleep(1000 * (unsigned)atoi(getenv("READS_MS")));
    static int count;  // of one thread, which reads a journal
    const char *hold = getenv("READS_HOLD");
    if (++count > 6 && hold) {
        while (access(hold, F_OK) == 0) usleep(10000);
    }
}

typedef ssize_t (*Pread)(int, void *, size_t, off_t);

// The one or the other, as the program was compiled.
ssize_t pread(int fd, void *to, size_t size, off_t at) {
    wait_for_the_disk(fd);
    return ((Pread)dlsym(RTLD_NEXT, "pread"))(fd, to, size, at);
}

ssize_t pread64(int fd, void *to, size_t size, off64_t at) {
    wait_for_the_disk(fd);
    return ((Pread)dlsym(RTLD_NEXT, "pread64"))(fd, to, size, at);
}
