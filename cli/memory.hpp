// SPDX-License-Identifier: MIT
//
// What the server takes of the machine: descriptors, stacks of threads, and memory by --max-memory.

#pragma once

#include "flags.hpp"

#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>

namespace cli {

// Connections are descriptors, of which a login gives 1,024 where there may be more.
inline void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

// 256 KiB of stack are several times what any thread uses; the C library has another size of its
// own.  glibc gives each thread a heap as well, unless it is told how many there may be, and keeps
// what large blocks have left.
inline void make_threads_small([[maybe_unused]] bool has_little_memory) {
    pthread_attr_t attributes;
    if (::pthread_attr_init(&attributes) != 0) return;
    ::pthread_attr_setstacksize(&attributes, std::size_t{256} << 10);
    ::pthread_setattr_default_np(&attributes);
    ::pthread_attr_destroy(&attributes);
#ifdef __GLIBC__
    ::mallopt(M_ARENA_MAX, has_little_memory ? 1 : 2);
    if (!has_little_memory) return;
    ::mallopt(M_MMAP_THRESHOLD, 128 << 10);
    ::mallopt(M_TRIM_THRESHOLD, 128 << 10);
#endif
}

// Shares out what --max-memory gives: to the program itself and its log, to each sink, to the
// server, and the rest to the schedulers, in equal parts.
inline void share_memory(Settings& settings, std::list<Served>& served) {
    constexpr std::uint64_t of_program = std::uint64_t{4} << 20;
    constexpr std::uint64_t of_sink = std::uint64_t{384} << 10;
    const std::uint64_t all = settings.scheduler.max_memory;
    if (all == 0) return;
    std::uint64_t others = of_program;
    for (const Served& one : served) others += one.configured.size() * of_sink;
    others += settings.http.derive_limits((all - std::min(all, others)) / 5 * 2);
    const std::uint64_t part = (all - std::min(all, others)) / served.size();
    for (Served& one : served) {
        scheduler::Options& options = one.settings.scheduler;
        options.memory_of_others = others + part * (served.size() - 1);
        try {
            options.derive_limits();
        } catch (const scheduler::Error& error) {
            refuse_usage({"--max-memory: ", error.what()});
        }
    }
}

}  // namespace cli
