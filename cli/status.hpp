// SPDX-License-Identifier: MIT
//
// How a server stands and what became of a task, in lines for people.

#pragma once

#include "terminal.hpp"

#include <utility>
#include <vector>

namespace cli {

// "2 h 5 min"
inline std::string lasting(std::int64_t seconds) {
    if (seconds < 60) return std::to_string(seconds) + " s";
    if (seconds < 3'600) {
        return concat({std::to_string(seconds / 60), " min ", std::to_string(seconds % 60), " s"});
    }
    if (seconds < 86'400) {
        return concat(
            {std::to_string(seconds / 3'600), " h ", std::to_string(seconds / 60 % 60), " min"});
    }
    return concat(
        {std::to_string(seconds / 86'400), " d ", std::to_string(seconds / 3'600 % 24), " h"});
}

inline std::string late(std::int64_t ms) {
    return ms < 10'000 ? std::to_string(ms) + " ms" : lasting(ms / 1'000);
}

// A moment: by the local clock for a person, else as it is sent.
inline std::string moment(scheduler::TimePoint time) {
    return on_terminal() ? local_time(time) : scheduler::format_time(time);
}

// Lines of a name and what there is to say of it.
using Lines = std::vector<std::pair<std::string, std::string>>;

inline void print_lines(const Lines& lines) {
    for (const auto& [name, text] : lines) {
        const std::size_t pad = name.size() < 10 ? 10 - name.size() : 1;
        print_line(name + (on_terminal() ? std::string(pad, ' ') : "\t") + visible(text));
    }
}

// The answer of GET /status, taken apart.
class StatusAnswer {
public:
    explicit StatusAnswer(const std::string& json) {
        const std::string error = picojson::parse(json_, json);
        if (!error.empty() || !json_.is<picojson::object>()) {
            throw scheduler::Error(scheduler::Errc::unreachable,
                                   "the answer is not that of a scheduler");
        }
    }
    Lines lines() const;
    // What each node is, for people on a line and as JSON; none: there is no cluster.
    std::vector<std::pair<std::string, std::string>> nodes() const;

private:
    using Value = picojson::value;
    // The member of a member, or null.
    const Value& at(const Value& from, const std::string& name) const {
        static const Value none;
        return from.is<picojson::object>() ? from.get(name) : none;
    }
    const Value& at(const std::string& name) const { return at(json_, name); }
    static std::string text(const Value& value) {
        return value.is<picojson::null>() ? "" : value.to_str();
    }
    static std::int64_t number(const Value& value) {
        return value.is<double>() ? static_cast<std::int64_t>(value.get<double>()) : 0;
    }
    static std::string count(const Value& value) { return std::to_string(number(value)); }
    static std::optional<scheduler::TimePoint> time(const Value& value) {
        return scheduler::parse_time(text(value));
    }
    static std::vector<Value> list(const Value& value) {
        return value.is<picojson::array>() ? value.get<picojson::array>() : std::vector<Value>();
    }
    static bool is_true(const Value& value) { return value.is<bool>() && value.get<bool>(); }
    std::string state() const;
    std::string pending() const;
    std::string lateness() const;
    std::string journal() const;
    std::string cluster() const;
    std::string sink(const Value& sink) const;

    Value json_;
};

inline std::string StatusAnswer::state() const {
    const Value& paused = at("paused");
    std::string state = is_true(at("ready")) ? "ready" : "not ready:";
    for (const Value& problem : list(at("problems"))) state += ' ' + text(problem);
    if (!paused.is<picojson::object>()) return state;
    state = is_true(at("ready")) ? "" : state + "; ";
    const auto since = time(at(paused, "since"));
    const std::string reason = text(at(paused, "reason"));
    state += "PAUSED since " + (since ? moment(*since) : "");
    return reason.empty() ? state : concat({state, ": ", reason});
}

inline std::string StatusAnswer::pending() const {
    const auto next = time(at("next_due"));
    std::string line = count(at("pending"));
    if (next) line += concat({", the earliest due ", moment(*next), " (", until(*next), ")"});
    const std::int64_t overdue = number(at("overdue"));
    if (overdue == 0) return line;
    return concat({line, "; ", std::to_string(overdue), " overdue, by up to ",
                   late(number(at("overdue_ms")))});
}

inline std::string StatusAnswer::lateness() const {
    const scheduler::TimePoint since =
        time(at("now")).value_or(scheduler::wall_clock()) - std::chrono::hours(1);
    std::int64_t events = 0;
    std::int64_t p99 = 0;
    std::int64_t max = 0;
    for (const Value& minute : list(at("lateness"))) {
        if (time(at(minute, "at")).value_or(since) <= since) continue;
        events += number(at(minute, "events"));
        p99 = std::max(p99, number(at(minute, "p99_ms")));
        max = std::max(max, number(at(minute, "max_ms")));
    }
    if (events == 0) return "nothing was emitted in the last hour";
    return concat({late(max), " at most in the last hour, of ", std::to_string(events),
                   " events; p99 of its worst minute ", late(p99)});
}

inline std::string StatusAnswer::journal() const {
    const Value& journal = at("journal");
    const std::string file = text(at(journal, "file"));
    std::string line = is_true(at(journal, "failed")) ? "CANNOT BE WRITTEN; " : "";
    line += file.empty() ? "none" : file + ", " + count(at(journal, "bytes")) + " bytes";
    if (!file.empty() && !at("cluster").is<picojson::object>()) {
        line += ", fsync " + text(at(journal, "fsync"));
    }
    if (is_true(at(journal, "disk_full"))) {
        line += concat({"; ITS DISK IS FULL: ", count(at(journal, "room_bytes")),
                        " bytes are free, ", count(at(journal, "needed_bytes")), " are needed"});
    }
    const std::int64_t damaged = number(at(journal, "damaged_lines"));
    if (damaged > 0) line += concat({"; ", std::to_string(damaged), " damaged lines were found"});
    return line;
}

inline std::string StatusAnswer::cluster() const {
    const Value& cluster = at("cluster");
    const std::string owner = text(at(cluster, "owner"));
    std::string line = "node " + text(at(cluster, "node"));
    line += owner.empty() ? ", NO OWNER" : ", owner " + owner;
    line += concat({", epoch ", count(at(cluster, "epoch")), ", lag ", count(at(cluster, "lag"))});
    if (!is_true(at(cluster, "connected"))) line += "; NOT CONNECTED";
    const std::string problem = text(at(cluster, "problem"));
    return problem.empty() ? line : concat({line, "; ", problem});
}

inline std::vector<std::pair<std::string, std::string>> StatusAnswer::nodes() const {
    std::vector<std::pair<std::string, std::string>> nodes;
    const Value& cluster = at("cluster");
    const std::string separator = on_terminal() ? "  " : "\t";
    const std::int64_t stored = number(at(cluster, "stored"));
    for (const Value& one : list(at(cluster, "nodes"))) {
        const std::string node = text(at(one, "node"));
        const bool is_owner = node == text(at(cluster, "owner"));
        const char* const role = is_owner ? "owner" : "follower";
        const std::string url = text(at(one, "url"));
        const std::string epoch = count(at(cluster, "epoch"));
        // What others tell of themselves is some seconds old.
        const std::int64_t own = node == text(at(cluster, "node")) ? number(at(cluster, "applied"))
                                                                   : number(at(one, "applied"));
        const std::int64_t last = is_owner ? stored : own;
        const std::string applied = std::to_string(last);
        const std::string lag = std::to_string(std::max<std::int64_t>(0, stored - last));
        const auto seen = time(at(one, "seen"));
        const std::string ago =
            seen ? late(std::max<std::int64_t>(0, (scheduler::wall_clock() - *seen).count())) : "?";
        nodes.emplace_back(
            concat({visible(node), separator, role, separator, (url.empty() ? "-" : visible(url)),
                    separator, "epoch ", epoch, separator, "applied ", applied, separator, "lag ",
                    lag, separator, "seen ", ago, " ago"}),
            concat({"{\"node\":", scheduler::quote_json(node), ",\"role\":\"", role,
                    "\",\"url\":", (url.empty() ? "null" : scheduler::quote_json(url)),
                    ",\"epoch\":", epoch, ",\"applied\":", applied, ",\"lag\":", lag,
                    ",\"seen\":", scheduler::quote_json(text(at(one, "seen"))), "}"}));
    }
    return nodes;
}

inline std::string StatusAnswer::sink(const Value& sink) const {
    std::string line = concat({text(at(sink, "state")), ", lag ", count(at(sink, "lag")), ", dead ",
                               count(at(sink, "dead"))});
    const std::string error = text(at(sink, "last_error"));
    return error.empty() ? line : concat({line, ", last error: ", error});
}

inline Lines StatusAnswer::lines() const {
    Lines lines{
        {"version", concat({text(at("version")), ", up ", lasting(number(at("uptime_s")))})},
        {"state", state()},
        {"pending", pending()},
        {"emitted", concat({count(at("emitted")), " since the start, ", count(at("late")),
                            " of them more than a second late"})},
        {"missed", count(at("missed"))},
        {"refused", count(at("refused"))},
        {"lateness", lateness()},
        {"clock", is_true(at(at("clock"), "trusted")) ? "trusted" : "NOT TRUSTED"},
        {"journal", journal()},
        {"memory", concat({"tasks, events, keys and dead letters take ", count(at("bytes")), " of ",
                           count(at(at("limits"), "bytes")), " bytes"})},
        {"streams",
         concat({count(at(at("streams"), "open")), " of ", count(at(at("streams"), "limit"))})},
    };
    if (at("cluster").is<picojson::object>()) lines.emplace_back("cluster", cluster());
    for (const Value& one : list(at("sinks"))) {
        lines.emplace_back("sink " + text(at(one, "name")), sink(one));
    }
    return lines;
}

inline std::string share_line(const scheduler::SinkShare& share) {
    using State = scheduler::SinkShare::State;
    const std::string attempts = share.attempts == 1 ? " attempt" : " attempts";
    const std::string failed =
        share.attempts == 0
            ? ""
            : concat({", ", std::to_string(share.attempts), attempts, " failed: ", share.error});
    if (share.state == State::taken) return "has it";
    if (share.state == State::dead) return "did not take it: a dead letter" + failed;
    const std::string next =
        share.next_attempt ? ", tried again " + until(*share.next_attempt) : "";
    return concat({"is still to get it", failed, next});
}

// What became of a task.
inline Lines story_lines(const scheduler::TaskStory& story) {
    using scheduler::Status;
    const scheduler::Task& task = story.task;
    const std::string due = moment(task.due);
    Lines lines{{"id", task.id.str()}};
    if (!task.name().empty()) lines.emplace_back("name", std::string(task.name()));
    if (!task.topic().empty()) lines.emplace_back("topic", std::string(task.topic()));
    lines.emplace_back("stored", moment(story.stored_at));
    const std::string ended =
        concat({moment(task.ended_at), ", ", late((task.ended_at - task.due).count()), " late"});
    if (task.status == Status::pending)
        lines.emplace_back("pending", concat({due, " (", until(task.due), ")"}));
    if (task.status != Status::pending) lines.emplace_back("due", due);
    if (task.status == Status::emitted) lines.emplace_back("emitted", ended);
    if (task.status == Status::missed)
        lines.emplace_back("missed", ended + ", so it was not emitted");
    for (const scheduler::SinkShare& share : story.sinks) {
        lines.emplace_back("sink " + share.sink, share_line(share));
    }
    lines.emplace_back("message", std::string(scheduler::message_of(task.text())));
    return lines;
}

}  // namespace cli
