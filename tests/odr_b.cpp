// SPDX-License-Identifier: MIT
//
// The half of odr_a.cpp that is compiled with SCHEDULER_NO_HTTP.
#include <scheduler.hpp>

#ifndef SCHEDULER_NO_HTTP
#error "this file is compiled without HTTP"
#endif

std::size_t size_without_http();
void schedule_without_http(scheduler::Scheduler& tasks);

std::size_t size_without_http() {
    return sizeof(scheduler::Scheduler);
}

void schedule_without_http(scheduler::Scheduler& tasks) {
    tasks.schedule(std::chrono::hours(1), R"({"from": "odr_b"})");
}
