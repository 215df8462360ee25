// SPDX-License-Identifier: MIT
//
// What is written for people to read, and how a failure is told: nothing that somebody
// else has sent controls a terminal, and no output is lost without a word.

#pragma once

#include "common.hpp"

#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <sstream>

namespace cli {

// Standard output takes no more: exit status 1.
struct OutputError : std::runtime_error {
    explicit OutputError(int code)
        : std::runtime_error("cannot write to standard output: " +
                             std::generic_category().message(code)),
          reader_left(code == EPIPE) {}
    bool reader_left;  // as that of `ls | head` does, which is no failure to tell of
};

inline bool on_terminal() {
    return ::isatty(STDOUT_FILENO) != 0;
}

// The size of the UTF-8 character at the front of a text, 0 if there is none.
inline std::size_t character_size(std::string_view text) {
    const auto lead = static_cast<unsigned char>(text.front());
    const std::size_t size = lead < 0x80   ? 1
                             : lead < 0xC2 ? 0
                             : lead < 0xE0 ? 2
                             : lead < 0xF0 ? 3
                             : lead < 0xF5 ? 4
                                           : 0;
    if (size > text.size()) return 0;
    for (std::size_t i = 1; i < size; ++i) {
        if ((static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U) return 0;
    }
    return size;
}

// The text with an escape, as in JSON, in place of each control character (C0, DEL and
// C1) and of each byte that is no UTF-8.
inline std::string visible(std::string_view text) {
    std::string shown;
    const auto escape = [&shown](const char* form, unsigned char code) {
        char escaped[8];
        std::snprintf(escaped, sizeof escaped, form, static_cast<unsigned>(code));
        shown += escaped;
    };
    while (!text.empty()) {
        const auto lead = static_cast<unsigned char>(text[0]);
        const std::size_t size = character_size(text);
        if (size == 0) {
            escape("\\x%02x", lead);
        } else if (size == 1 && (lead < 0x20 || lead == 0x7F)) {
            escape("\\u%04x", lead);
        } else if (lead == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0) {
            escape("\\u%04x", static_cast<unsigned char>(text[1]));
        } else {
            shown += text.substr(0, size);
        }
        text.remove_prefix(std::max<std::size_t>(size, 1));
    }
    return shown;
}

// No more characters than fit on a line.
inline std::string shortened(std::string_view text) {
    constexpr std::size_t longest = 60;
    std::size_t end = 0;  // of the characters that are kept if there are too many
    std::size_t at = 0;
    for (std::size_t count = 1; at < text.size(); ++count) {
        if (count > longest) return std::string(text.substr(0, end)) + "...";
        at += std::max<std::size_t>(character_size(text.substr(at)), 1);
        if (count + 3 == longest) end = at;
    }
    return std::string(text);
}

// Words with line breaks between them, so that lines fit on a terminal; each line but the first
// begins with so many blanks.
inline std::string wrapped(const std::string& text, std::size_t indent) {
    constexpr std::size_t width = 92;
    std::string lines;
    std::size_t column = indent;
    std::istringstream words(text);
    for (std::string word; words >> word;) {
        if (!lines.empty() && column + 1 + word.size() > width) {
            lines += '\n' + std::string(indent, ' ');
            column = indent;
        } else if (!lines.empty()) {
            lines += ' ';
            ++column;
        }
        lines += word;
        column += word.size();
    }
    return lines;
}

// A flag's name, with its letter before it if it has one.
inline std::string names_of(const FlagForm& flag) {
    if (flag.letter == 0 || flag.name.size() == 2) return flag.name;
    return concat({"-", std::string(1, flag.letter), ", ", flag.name});
}

// What the help says of a flag.
inline std::string option_line(const FlagForm& flag) {
    constexpr std::size_t indent = 27;
    std::string line = concat({"  ", names_of(flag), (flag.value.empty() ? "" : " "), flag.value});
    line += line.size() + 1 < indent ? std::string(indent - line.size(), ' ')
                                     : '\n' + std::string(indent, ' ');
    return concat({line, wrapped(flag.help, indent), "\n"});
}

// A sentence for whoever started the program.
inline void report(const std::string& sentence) {
    std::fprintf(stderr, "task-scheduler: %s\n", visible(sentence).c_str());
}

// The line stays as it is, unless it is for a terminal.
inline void print_line(const std::string& line) {
    const std::string text = (on_terminal() ? visible(line) : line) + '\n';
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) throw OutputError(errno);
}

// What was printed is on its way to whoever reads it.
inline void flush_output() {
    if (std::fflush(stdout) != 0 || std::ferror(stdout)) throw OutputError(errno);
}

inline std::string local_time(scheduler::TimePoint time) {
    const time_t seconds = static_cast<time_t>(time.time_since_epoch().count() / 1'000);
    tm parts{};
    ::localtime_r(&seconds, &parts);
    char text[64];
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
    return text;
}

// "in 2 h 5 min"
inline std::string until(scheduler::TimePoint time) {
    const auto seconds = (time - scheduler::wall_clock()).count() / 1'000;
    if (seconds < 1) return "now";
    if (seconds < 60) return concat({"in ", std::to_string(seconds), " s"});
    if (seconds < 3'600) {
        return concat(
            {"in ", std::to_string(seconds / 60), " min ", std::to_string(seconds % 60), " s"});
    }
    if (seconds < 86'400) {
        return concat({"in ", std::to_string(seconds / 3'600), " h ",
                       std::to_string(seconds / 60 % 60), " min"});
    }
    return concat({"in ", std::to_string(seconds / 86'400), " d ",
                   std::to_string(seconds / 3'600 % 24), " h"});
}

// Runs fn, which returns an exit status, and tells of what it throws in one line: 1 for
// a failure, 2 for wrong use, 3 where no server answers.  `help` says where to read on.
template <class Fn>
int guarded(const std::string& help, Fn fn) {
    try {
        return fn();
    } catch (const UsageError& error) {
        report(concat({error.what(), " (see ", help, ")"}));
        return 2;
    } catch (const OutputError& error) {
        if (!error.reader_left) report(error.what());
        return 1;
    } catch (const scheduler::Error& error) {
        report(error.what());
        return error.code() == scheduler::Errc::unreachable ? 3 : 1;
    } catch (const std::bad_alloc&) {
        std::fputs(
            "task-scheduler: there is too little memory; raise the limit that its unit, "
            "container or shell sets, as the tasks of a journal take about as much as its "
            "file\n",
            stderr);
        return 1;
    } catch (const std::exception& error) {
        report(error.what());
        return 1;
    }
}

}  // namespace cli
