// SPDX-License-Identifier: MIT
//
// What the flags of the server and the verbs of the command line share.

#pragma once

#include "../scheduler.hpp"

#include <signal.h>

#include <algorithm>
#include <limits>

namespace cli {

// Why the command line or the environment cannot be used: exit status 2.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline std::uint64_t number(const std::string& text, std::uint64_t least, std::uint64_t most) {
    const bool digits = !text.empty() && text.size() <= 18 &&
                        text.find_first_not_of("0123456789") == std::string::npos;
    const std::uint64_t value = digits ? std::stoull(text) : 0;
    if (!digits || value < least || value > most) {
        throw UsageError("must be a whole number from " + std::to_string(least) + " to " +
                         std::to_string(most) + ", not '" + text + "'");
    }
    return value;
}

inline constexpr std::uint64_t any_size = 1'000'000'000'000;

// Sets a number, to the largest of its type if that is less.
template <class Int>
inline void set_number(Int& value, const std::string& text, std::uint64_t least,
                       std::uint64_t most) {
    constexpr std::uint64_t largest = std::numeric_limits<Int>::max();
    value = static_cast<Int>(std::min(number(text, least, most), largest));
}

inline sigset_t stop_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

}  // namespace cli
