// SPDX-License-Identifier: MIT
//
// The simulation: one process, one thread, one seed.
//
//     sim [--seconds N | --seeds N] [--seed S | --from S | --from random] [--brownouts] [--trace]
//         [--marks] [--cluster]
//
// Runs one world after the other, each with the next seed, for N seconds or seeds; with --seed
// that one alone.  With --cluster each world is some schedulers on a journal that they share.  Its
// last line is "N passed, N failed".

#include "world.hpp"

#include "cluster.hpp"

#include <time.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <random>

// Allocations fail where the simulation says so.  Not inlined, as compilers that see both halves
// of a pair wonder at free().
[[gnu::noinline]] void* operator new(std::size_t size) {
    if (!sim::Memory::fails()) {
        if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    }
    throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return sim::Memory::fails() ? nullptr : std::malloc(size == 0 ? 1 : size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept {
    std::free(memory);
}

// The library's sources of chance and of time, so that a seed decides everything.  Only
// libstdc++'s chance can be replaced; with another library no two runs of the same seed are alike.
#ifdef __GLIBCXX__
namespace sim {
inline std::uint64_t device_state = 0;
}
std::random_device::result_type std::random_device::_M_getval() {
    return static_cast<result_type>(sim::Random(sim::device_state++).next());
}
#endif
std::chrono::steady_clock::time_point std::chrono::steady_clock::now() noexcept {
    return time_point(sim::steady_time);
}
std::chrono::system_clock::time_point std::chrono::system_clock::now() noexcept {
    // A scheduler is given another clock, and asks that.
    return time_point(std::chrono::duration_cast<duration>(sim::steady_time));
}

namespace {

double seconds_of(clockid_t clock) {
    timespec now{};
    ::clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

struct Arguments {
    double seconds = 60;
    std::uint64_t seeds = 0;  // how many, in place of the time; 0: the time counts
    std::uint64_t seed = 1;
    bool one = false;  // that seed alone
    bool trace = false;
    bool marks = false;
    bool brownouts = false;
    bool cluster = false;
};

struct Totals {
    std::uint64_t passed = 0;
    std::uint64_t failed = 0;
    std::uint64_t operations = 0;
    std::int64_t simulated = 0;  // in milliseconds
};

// A seed that nobody has chosen, of few digits.
std::uint64_t random_seed() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return sim::Random(static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
                       static_cast<std::uint64_t>(now.tv_nsec))
        .between(1, 999'999'999);
}

// False: they are not understood.
bool read_arguments(int count, char** words, Arguments& out) {
    for (int i = 1; i < count; ++i) {
        const bool more = i + 1 < count;
        if (std::strcmp(words[i], "--seconds") == 0 && more) {
            out.seconds = std::atof(words[++i]);
        } else if (std::strcmp(words[i], "--seeds") == 0 && more) {
            out.seeds = std::strtoull(words[++i], nullptr, 10);
        } else if (std::strcmp(words[i], "--seed") == 0 && more) {
            out.seed = std::strtoull(words[++i], nullptr, 10);
            out.one = true;
        } else if (std::strcmp(words[i], "--from") == 0 && more) {
            ++i;
            const bool any = std::strcmp(words[i], "random") == 0;
            out.seed = any ? random_seed() : std::strtoull(words[i], nullptr, 10);
        } else if (std::strcmp(words[i], "--trace") == 0) {
            out.trace = true;
        } else if (std::strcmp(words[i], "--marks") == 0) {
            out.marks = true;
        } else if (std::strcmp(words[i], "--brownouts") == 0) {
            out.brownouts = true;
        } else if (std::strcmp(words[i], "--cluster") == 0) {
            out.cluster = true;
        } else {
            return false;
        }
    }
    return true;
}

// Says what is wrong with a world, if anything is, and how that is repeated.
template <class World>
void run_world(World& world, std::uint64_t seed, const char* kind, Totals& totals) {
    try {
        world.run();
        ++totals.passed;
    } catch (const std::exception& failure) {
        ++totals.failed;
        std::printf("seed %llu, operation %llu: %s\n    repeat: tests/sim/run %s--seed %llu\n",
                    static_cast<unsigned long long>(seed),
                    static_cast<unsigned long long>(world.operations()), failure.what(), kind,
                    static_cast<unsigned long long>(seed));
        std::fflush(stdout);
    }
    totals.operations += world.operations();
    totals.simulated += world.simulated().count();
}

void run_one(std::uint64_t seed, const Arguments& arguments, sim::Marks& marks, Totals& totals) {
    sim::steady_time = std::chrono::hours(1);
    sim::Memory::work();
#ifdef __GLIBCXX__
    sim::device_state = seed;
#endif
    // Some seeds of every run are of this kind, in short.
    const std::chrono::hours brownouts(arguments.brownouts ? 24 : seed % 200 == 0 ? 2 : 0);
    if (arguments.cluster) {
        sim::Cluster cluster(seed, marks, arguments.trace);
        return run_world(cluster, seed, "--cluster ", totals);
    }
    sim::World world(seed, marks, arguments.trace, brownouts);
    run_world(world, seed, arguments.brownouts ? "--brownouts " : "", totals);
}

// Shows how often each event has happened, or those that never did, which count as failures.
void judge_marks(const sim::Marks& marks, const Arguments& arguments, Totals& totals) {
    const bool alone = arguments.one || arguments.brownouts;  // which cannot meet all of them
    for (std::size_t i = 0; i < marks.names().size(); ++i) {
        const bool never = marks.count(i) == 0;
        if (arguments.marks || (never && !alone)) {
            std::printf("%8llu %s\n", static_cast<unsigned long long>(marks.count(i)),
                        std::string(marks.names()[i]).c_str());
        }
        if (alone) continue;
        ++(never ? totals.failed : totals.passed);
    }
}

}  // namespace

int main(int count, char** words) {
    constexpr std::uint64_t most_failures = 10;
    Arguments arguments;
    if (!read_arguments(count, words, arguments)) {
        std::fputs(
            "usage: sim [--seconds N | --seeds N] [--seed S | --from S | --from random] "
            "[--brownouts] [--cluster] [--trace] [--marks]\n",
            stderr);
        return 2;
    }
    sim::Marks marks =
        arguments.cluster ? sim::Marks(sim::cluster_mark_names) : sim::Marks(sim::mark_names);
    Totals totals;
    std::uint64_t seed = arguments.seed;
    const double begin = seconds_of(CLOCK_MONOTONIC);
    const auto seconds = [begin] { return seconds_of(CLOCK_MONOTONIC) - begin; };
    const auto is_over = [&] {
        if (arguments.one || totals.failed == most_failures) return true;
        if (arguments.seeds > 0) return seed - arguments.seed == arguments.seeds;
        return seconds() >= arguments.seconds;
    };
    do {
        run_one(seed++, arguments, marks, totals);
    } while (!is_over());
    std::printf("seeds %llu to %llu, %llu operations in %.1f s, %.1f years of simulated time\n",
                static_cast<unsigned long long>(arguments.seed),
                static_cast<unsigned long long>(seed - 1),
                static_cast<unsigned long long>(totals.operations), seconds(),
                static_cast<double>(totals.simulated) / (1000.0 * 86'400 * 365));
    judge_marks(marks, arguments, totals);
    std::printf("%llu passed, %llu failed\n", static_cast<unsigned long long>(totals.passed),
                static_cast<unsigned long long>(totals.failed));
    return totals.failed == 0 ? 0 : 1;
}
