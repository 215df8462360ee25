// SPDX-License-Identifier: MIT
//
// The first and only process of a guest machine, whose clock may be set: see clock.py.
#include <scheduler.hpp>

#include <sys/mount.h>
#include <sys/reboot.h>
#include <cstdio>
#include <string>
#include <thread>

using namespace scheduler;
using std::chrono::seconds;

namespace {

using Steady = std::chrono::steady_clock;

// Past 2038, whatever a time_t here holds; a system call, as a C library of 32 bits cannot say it.
void set_clock(TimePoint time) {
    const std::int64_t ms = time.time_since_epoch().count();
    const std::array<std::int64_t, 2> spec{ms / 1'000, ms % 1'000 * 1'000'000};
#ifdef SYS_clock_settime64
    const long done = ::syscall(SYS_clock_settime64, CLOCK_REALTIME, spec.data());
#else
    const long done = ::syscall(SYS_clock_settime, CLOCK_REALTIME, spec.data());
#endif
    if (done != 0) std::perror("clock_settime");
}

milliseconds processor_time() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto of = [](const timeval& time) {
        return milliseconds(std::int64_t{time.tv_sec} * 1'000 + time.tv_usec / 1'000);
    };
    return of(usage.ru_utime) + of(usage.ru_stime);
}

void tell(bool is_well, const char* what, milliseconds figure) {
    std::printf("%s %s (%lld ms)\n", is_well ? "ok" : "FAILED", what,
                static_cast<long long>(figure.count()));
    std::fflush(stdout);
}

// How long, by the clock that nobody sets, it takes until the task that `begin` has scheduled comes;
// it is late by `late` then.
template <class Begin>
milliseconds time_of(Begin begin, milliseconds& late) {
    Options options;
    options.wake_device = true;
    options.log = [](const LogRecord& record) {
        std::printf("log: %s\n", std::string(record.text).c_str());
    };
    Scheduler tasks(options);
    const auto began = Steady::now();
    begin(tasks);
    tasks.wait_for(Cursor(), seconds(20));
    const auto took = std::chrono::duration_cast<milliseconds>(Steady::now() - began);
    const EventPage page = tasks.events();
    late = page.events.empty() ? milliseconds(-1) : page.events[0].late();
    return took;
}

void clock_is_set() {
    milliseconds late{0};
    set_clock(*parse_time("2027-03-01T12:00:00Z"));
    milliseconds took = time_of(
        [](Scheduler& tasks) {
            tasks.schedule(seconds(3'600), "[]");
            std::this_thread::sleep_for(milliseconds(300));
            set_clock(wall_clock() + seconds(3'601));
        },
        late);
    tell(took < seconds(2) && late >= seconds(0), "a clock that is set forward emits at once",
         took);
    took = time_of(
        [](Scheduler& tasks) {
            tasks.schedule(seconds(1), "[]");
            set_clock(wall_clock() - seconds(3));
        },
        late);
    tell(took >= seconds(4) - milliseconds(5) && took < seconds(6) && late >= seconds(0),
         "a clock that is set back lets a task wait", took);
}

void year_2038() {
    milliseconds late{0};
    set_clock(*parse_time("2038-01-19T03:14:06Z"));
    const milliseconds took = time_of(
        [](Scheduler& tasks) { tasks.schedule(*parse_time("2038-01-19T03:14:09Z"), "[]"); }, late);
    tell(took >= milliseconds(2'900) && took < seconds(5) && late >= seconds(0),
         "a task is emitted on time when the seconds take a 32nd bit", took);
    Scheduler tasks;
    tasks.schedule(seconds(86'400 * 30), "[]");
    std::this_thread::sleep_for(milliseconds(200));
    const milliseconds before = processor_time();
    std::this_thread::sleep_for(seconds(2));
    const milliseconds used = processor_time() - before;
    tell(used < milliseconds(50), "waiting for a moment beyond January 2038 takes no time", used);
}

void suspended() {
    milliseconds late{0};
    set_clock(*parse_time("2027-03-01T12:00:00Z"));
    FILE* const state = std::fopen("/sys/power/state", "w");
    const TimePoint before = wall_clock();
    time_of(
        [state](Scheduler& tasks) {
            tasks.schedule(seconds(6), "[]");
            std::this_thread::sleep_for(milliseconds(100));
            if (!state || std::fputs("mem", state) < 0 || std::fflush(state) != 0) {
                std::perror("/sys/power/state");
            }
        },
        late);
    tell(late >= seconds(0) && late < seconds(5), "a suspended machine wakes for a task", late);
    std::printf("by the wall clock that took %lld ms\n",
                static_cast<long long>((wall_clock() - before).count()));
}

}  // namespace

int main() {
    ::mount("sysfs", "/sys", "sysfs", 0, nullptr);
    ::mount("devtmpfs", "/dev", "devtmpfs", 0, nullptr);
    try {
        clock_is_set();
        year_2038();
        suspended();
        std::puts("done");
    } catch (const std::exception& error) {
        std::printf("FAILED %s\n", error.what());
    }
    std::fflush(stdout);
    ::reboot(RB_POWER_OFF);
}
