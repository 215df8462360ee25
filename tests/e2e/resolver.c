// SPDX-License-Identifier: MIT
//
// Preloaded, it makes the resolution of every name that ends with ".hangs" hang for as long
// as there is a file RESOLVER_FILE; then such a name means the loopback address.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*Resolve)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **found) {
    const Resolve real = (Resolve)dlsym(RTLD_NEXT, "getaddrinfo");
    const size_t size = host ? strlen(host) : 0;
    const int numeric = hints && (hints->ai_flags & AI_NUMERICHOST);
    if (size < 6 || strcmp(host + size - 6, ".hangs") != 0 || numeric) {
        return real(host, port, hints, found);
    }
    while (access(getenv("RESOLVER_FILE"), F_OK) == 0) usleep(10000);
    return real("127.0.0.1", port, hints, found);
}
