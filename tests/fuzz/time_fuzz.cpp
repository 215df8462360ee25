// SPDX-License-Identifier: MIT
//
// Whatever is read as a time is written and read again as the same time.
#define SCHEDULER_NO_HTTP
#include "../../scheduler.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (const auto time = scheduler::parse_time(text)) {
        if (scheduler::parse_time(scheduler::format_time(*time)) != time) std::abort();
        scheduler::one_year_after(*time);
        scheduler::detail::to_system_time(*time);
    }
    scheduler::parse_duration(text);
    scheduler::TaskId::parse(text);
    return 0;
}
