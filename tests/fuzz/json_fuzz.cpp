// SPDX-License-Identifier: MIT
//
// What the reader accepts, it accepts again without white space and unchanged;
// picojson reads it, if its numbers are not beyond a double; and no request does
// more than be refused.
#define SCHEDULER_NO_HTTP
#include "../../scheduler.hpp"

using scheduler::detail::JsonReader;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    JsonReader reader(text);
    std::string_view slice;
    std::string minified;
    if (reader.value(slice, &minified) && reader.finish()) {
        JsonReader again(minified);
        std::string same;
        if (!again.value(slice, &same) || !again.finish() || same != minified) std::abort();
        if (minified.front() == '"') scheduler::detail::read_string(minified);
        std::string quoted;
        scheduler::detail::append_quoted(quoted, minified);
        if (scheduler::detail::read_string(quoted) != minified) std::abort();
    } else if (reader.problem().empty()) {
        std::abort();
    }
    const auto now = *scheduler::parse_time("2026-03-01");
    const auto request = scheduler::TaskRequest::parse(text, now);
    if (request.errors.empty()) {
        JsonReader payload(request.payload);
        if (!payload.value(slice) || !payload.finish()) std::abort();
        if (scheduler::detail::changed_payload(request.payload, "", "") != request.payload)
            std::abort();
    }
    scheduler::TaskRequest::parse_change(text, now);
    return 0;
}
