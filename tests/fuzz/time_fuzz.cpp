// SPDX-License-Identifier: MIT
//
// Whatever is read as a time is written and read again as the same time, and a
// year after it is later; whatever is read as an id is written as it was.
#define SCHEDULER_NO_HTTP
#include "../../scheduler.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (const auto time = scheduler::parse_time(text)) {
        if (scheduler::parse_time(scheduler::format_time(*time)) != time) std::abort();
        if (!(*time < scheduler::one_year_after(*time))) std::abort();
    }
    scheduler::parse_duration(text);
    if (const auto id = scheduler::TaskId::parse(text)) {
        if (scheduler::TaskId::parse(id->str()) != id) std::abort();
    }
    scheduler::detail::read_seconds(text);
    return 0;
}
