// SPDX-License-Identifier: MIT
//
// Preloaded, it moves the wall clock of one process by as many seconds, which may have a fraction,
// as the file CLOCK_FILE says at that moment.  Waits in the kernel still follow the real clock.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const int result = real(clock, time);
    FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("CLOCK_FILE"), "r") : NULL;
    if (file) {
        double seconds = 0;
        if (fscanf(file, "%lf", &seconds) == 1) {
            const long long second = 1000000000;
            const long long moved =
                time->tv_sec * second + time->tv_nsec + (long long)(seconds * 1e9);
            time->tv_sec = (time_t)(moved / second);
            time->tv_nsec = (long)(moved % second);
        }
        fclose(file);
    }
    return result;
}
