// SPDX-License-Identifier: MIT
//
// Which of the events that matter have happened: a full run in which one never did proves less
// than it claims, and fails.

#ifndef TESTS_SIM_MARKS_HPP
#define TESTS_SIM_MARKS_HPP

#include "memory.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace sim {

constexpr std::array<std::string_view, 64> mark_names{
    "a crash of the process inside a call",
    "a loss of power",
    "a loss of power that kept writes out of order",
    "a crash during a replacement",
    "a crash between a rename and the sync of its directory",
    "a crash while the journal was opened",
    "a crash of which a begun change was kept",
    "a crash of which a begun change was lost",
    "a group of several changes cut by a crash",
    "a bulk cancel cut by a crash between its parts",
    "a bulk cancel in several parts",
    "a bulk cancel that failed and was undone",
    "a group that failed and was undone",
    "a group stored by the wait of another ticket",
    "a ticket that was dropped and stored all the same",
    "a ticket stored by try_store()",
    "a change that met another on its way",
    "a clean end that stored what was begun",
    "an acknowledged change lost under everysec or no",
    "an emission lost with the power and repeated",
    "a key repeated",
    "a key repeated while on its way",
    "a key with another request",
    "a key known after a restart",
    "a key forgotten after its day",
    "a failed sync, then a replacement",
    "a journal that failed and emitted all the same",
    "an emission owed to the journal",
    "a disk that was full, and then free",
    "a cancel on a full disk",
    "a change refused for want of room",
    "a full disk that let through the ends of a group alone",
    "an opening that failed and changed nothing",
    "a salvage of damaged lines",
    "a torn tail cut off",
    "a failed allocation that refused a change",
    "a failed allocation while running",
    "a clock that stepped back",
    "a clock that was not trusted",
    "a clock that caught up",
    "a task that was missed",
    "a task that was missed by its own lateness",
    "a task that was missed after a pause",
    "a pause that held back what was due",
    "a pause that a restart has kept",
    "a pause that could not be stored",
    "a change that met a bulk cancel on its way",
    "a bulk cancel that took a task whose change was on its way",
    "a put that made a task",
    "a put that replaced a task",
    "a put that met another change on its way",
    "a put whose condition was not met",
    "events that were forgotten",
    "history that was trimmed",
    "a search that has found tasks",
    "an event that a sink's topics have chosen",
    "an event that a subscription's filter has chosen",
    "a subscription resumed",
    "a subscription resumed after a restart",
    "an overflow of a sink",
    "a dead letter",
    "a dead letter redelivered",
    "a sink that was disabled",
    "a sink that was unlisted and listed again",
};

// Those of a cluster.
constexpr std::array<std::string_view, 11> cluster_mark_names{
    "a node that took over",
    "a group that was late and stored",
    "an outcome that is not known",
    "a change that was begun and not stored",
    "a change that met another one",
    "a key repeated on another node than at first",
    "a bulk cancel in several groups",
    "a bulk cancel stored in several groups",
    "a reader that went to another node",
    "an event that was delivered again by the next owner",
    "a node that had to read everything anew",
};

class Marks {
public:
    template <std::size_t Size>
    explicit Marks(const std::array<std::string_view, Size>& names)
        : names_(names.begin(), names.end()), counts_(Size) {}
    const std::vector<std::string_view>& names() const { return names_; }
    void hit(std::string_view name) {
        for (std::size_t i = 0; i < names_.size(); ++i) {
            if (names_[i] != name) continue;
            ++counts_[i];
            return;
        }
        throw std::logic_error("there is no mark " + std::string(name));
    }
    std::uint64_t count(std::size_t mark) const { return counts_[mark]; }

private:
    const std::vector<std::string_view> names_;
    std::vector<std::uint64_t> counts_;
};

}  // namespace sim

#endif  // TESTS_SIM_MARKS_HPP
