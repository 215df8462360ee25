// SPDX-License-Identifier: MIT
//
// How a record of the log is written: as text for people, or as logfmt or JSON for machines.

#pragma once

#include "terminal.hpp"

#include <sys/stat.h>

namespace cli {

enum class LogFormat { text, logfmt, json };

// The text as a string of JSON, in quotes, which is that of logfmt too: of nothing but whole
// characters, controls among them escaped.
inline std::string quoted_for_log(std::string_view text) {
    std::string quoted = "\"";
    while (!text.empty()) {
        const std::size_t size = character_size(text);
        if (size == 0) {
            quoted += "\xEF\xBF\xBD";  // U+FFFD
        } else if (text[0] == '"' || text[0] == '\\') {
            quoted.append(1, '\\').append(1, text[0]);
        } else {
            quoted += visible(text.substr(0, size));
        }
        text.remove_prefix(std::max<std::size_t>(size, 1));
    }
    return quoted + '"';
}

// A value of logfmt, which needs quotes unless it is one plain word.
inline std::string logfmt_value(const std::string& text) {
    const bool is_plain = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
        return c > ' ' && c <= '~' && c != '"' && c != '=' && c != '\\';
    });
    return is_plain ? text : quoted_for_log(text);
}

// What comes in front of each line where systemd reads them: the priority of syslog.
inline const char* priority_prefix(scheduler::LogLevel level) {
    switch (level) {
        case scheduler::LogLevel::debug:
            return "<7>";
        case scheduler::LogLevel::info:
            return "<6>";
        case scheduler::LogLevel::warning:
            return "<4>";
        case scheduler::LogLevel::error:
            break;
    }
    return "<3>";
}

// Whether systemd's journal reads standard error, which adds the time by itself.
inline bool is_read_by_journald() {
    const char* const stream = std::getenv("JOURNAL_STREAM");
    struct stat status {};
    if (!stream || ::fstat(STDERR_FILENO, &status) != 0) return false;
    return stream == concat({std::to_string(status.st_dev), ":", std::to_string(status.st_ino)});
}

// A line of the log, without its end.  `at` is when it was said; none: that is not written.
inline std::string log_line(const scheduler::LogRecord& record, LogFormat format,
                            std::optional<scheduler::TimePoint> at) {
    const std::string time = at ? scheduler::format_time(*at) : "";
    const std::string level = name_of(record.level);
    std::string line;
    if (format == LogFormat::text) {
        if (at) line = time + ' ';
        return concat({line, level, " ", visible(record.event), ": ", visible(record.text)});
    }
    const bool is_json = format == LogFormat::json;
    const auto add = [&](const std::string& name, const std::string& value, bool is_number) {
        if (!line.empty()) line += is_json ? "," : " ";
        line += is_json ? quoted_for_log(name) + ':' : name + '=';
        line += is_number ? value : is_json ? quoted_for_log(value) : logfmt_value(value);
    };
    if (at) add("time", time, false);
    add("level", level, false);
    add("event", record.event, false);
    add(is_json ? "message" : "msg", record.text, false);
    for (const auto& field : record.fields) add(field.name, field.value, field.is_number);
    return is_json ? concat({"{", line, "}"}) : line;
}

}  // namespace cli
