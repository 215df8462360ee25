// SPDX-License-Identifier: MIT
//
// Everything that a scheduler shows at one moment, held against the model.

#ifndef TESTS_SIM_CHECK_HPP
#define TESTS_SIM_CHECK_HPP

#include "model.hpp"

namespace sim {

constexpr std::size_t all_of_them = static_cast<std::size_t>(-1);

struct Observed {
    explicit Observed(const scheduler::Scheduler& tasks);

    std::vector<Task> pending;
    std::vector<Event> events;
    std::uint64_t newest = 0;
    std::optional<ModelPause> paused;
    std::map<std::string, scheduler::SinkStatus> sinks;
    std::map<std::string, std::vector<scheduler::DeadLetter>> letters;
    std::map<TaskId, std::size_t> place_of;  // of a pending task in `pending`
};

inline std::optional<ModelPause> pause_of(const scheduler::Scheduler& tasks) {
    const auto paused = tasks.paused();
    return paused ? std::optional(ModelPause{paused->since, paused->reason}) : std::nullopt;
}

inline Observed::Observed(const scheduler::Scheduler& tasks) : paused(pause_of(tasks)) {
    scheduler::TaskQuery all_tasks;
    all_tasks.limit = all_tasks.max_bytes = all_of_them;
    pending = tasks.tasks(all_tasks).tasks;
    scheduler::EventQuery all_events;
    all_events.limit = all_events.max_bytes = all_of_them;
    events = tasks.events(all_events).events;
    newest = tasks.newest().seq();
    for (scheduler::SinkStatus& sink : tasks.sinks()) {
        letters[sink.name] = tasks.dead_letters(sink.name, std::nullopt, all_of_them).letters;
        sinks[sink.name] = std::move(sink);
    }
    for (std::size_t i = 0; i < pending.size(); ++i) place_of[pending[i].id] = i;
}

inline std::string pending_difference(const Model& model, const Observed& observed) {
    if (model.order.size() != observed.pending.size()) {
        for (const Task& task : observed.pending) {
            if (model.pending.count(task.id) == 0) return "task " + task.id.str() + " is pending";
        }
        const auto missing = std::find_if(
            model.order.begin(), model.order.end(),
            [&observed](const auto& one) { return observed.place_of.count(one.second) == 0; });
        return std::to_string(model.order.size()) + " tasks should be pending, as " +
               missing->second.str() + ", and " + std::to_string(observed.pending.size()) + " are";
    }
    std::size_t i = 0;
    std::set<std::string_view> names;
    for (const auto& [due, id] : model.order) {
        const Task& task = observed.pending[i++];
        if (task.id != id || task.due != due) {
            return "task " + id.str() + " should be the next pending one, and " + task.id.str() +
                   " is";
        }
        if (task.text() != model.pending.at(id).payload) {
            return "task " + id.str() + " should have " + model.pending.at(id).payload +
                   ", and has " + task.payload.str();
        }
        if (!model.shows(model.pending.at(id), task.topic(), task.name())) {
            return "task " + id.str() + " has another topic or name";
        }
        if (!task.name().empty() && !names.insert(task.name()).second) {
            return "name " + std::string(task.name()) + " means two tasks";
        }
    }
    return "";
}

inline std::string event_difference(const Model& model, const ModelEvent& expected,
                                    const Event& event) {
    const std::string name = "event " + std::to_string(expected.seq) + ' ' + expected.task.id.str();
    if (event.seq != expected.seq || event.id != expected.task.id) {
        return name + " should come next, and " + std::to_string(event.seq) + ' ' + event.id.str() +
               " does";
    }
    if (event.text() != expected.task.payload) return name + " has another payload";
    if (event.due != expected.task.due) return name + " has another due time";
    if (!model.shows(expected.task, event.topic(), event.name())) {
        return name + " has another topic or name";
    }
    if (event.emitted_at != expected.at) return name + " was emitted at another time";
    return "";
}

// More of the past may be there than has to, but without a gap.
inline std::string events_difference(const Model& model, const Observed& observed) {
    std::uint64_t first = model.trimmed;
    if (!observed.events.empty()) first = std::min(first, observed.events.front().seq);
    std::size_t i = 0;
    for (auto at = model.at_or_after(first); at != model.events.end(); ++at) {
        if (at->forgotten) continue;
        if (i == observed.events.size()) {
            return "event " + std::to_string(at->seq) + ' ' + at->task.id.str() + " is not there";
        }
        const std::string difference = event_difference(model, *at, observed.events[i++]);
        if (!difference.empty()) return difference;
    }
    if (i < observed.events.size()) {
        return "event " + std::to_string(observed.events[i].seq) + " should not be there";
    }
    if (observed.newest < model.next_seq) return "the next event would have a seq that was used";
    return "";
}

inline std::size_t lag_of(const Observed& observed, std::uint64_t seq) {
    return static_cast<std::size_t>(
        std::count_if(observed.events.begin(), observed.events.end(),
                      [seq](const Event& event) { return event.seq >= seq; }));
}

// How many events a sink has not taken once it has passed over those that its topics do not
// choose, which it may have done or be still to do.
inline std::size_t wanted_lag(const Observed& observed, const ModelSink& sink) {
    std::uint64_t first = sink.seq;
    for (const Event& event : observed.events) {
        if (event.seq < sink.seq) continue;
        ModelTask task;
        task.topic = event.topic();
        if (has_topic(sink.topics, task)) break;
        first = event.seq + 1;
    }
    return lag_of(observed, first);
}

inline std::string letters_difference(const std::string& name, const ModelSink& sink,
                                      const std::vector<scheduler::DeadLetter>& letters) {
    if (sink.dead.size() != letters.size()) {
        for (const scheduler::DeadLetter& letter : letters) {
            if (sink.dead.count(letter.event.seq) != 0) continue;
            return name + " should not have dead letter " + std::to_string(letter.event.seq);
        }
        return name + " should have " + std::to_string(sink.dead.size()) + " dead letters, not " +
               std::to_string(letters.size());
    }
    std::size_t i = 0;
    for (const auto& [seq, expected] : sink.dead) {
        const scheduler::DeadLetter& letter = letters[i++];
        if (letter.event.seq != seq || letter.event.id != expected.id) {
            return name + " should have dead letter " + std::to_string(seq) + ", and has " +
                   std::to_string(letter.event.seq);
        }
        if (letter.attempts != expected.attempts || letter.redelivering != expected.again) {
            return name + " has dead letter " + std::to_string(seq) + " with " +
                   std::to_string(letter.attempts) + " attempts, not " +
                   std::to_string(expected.attempts) + ", and is " +
                   (letter.redelivering ? "" : "not ") + "tried again";
        }
    }
    return "";
}

inline std::string sinks_difference(const Model& model, const Observed& observed) {
    if (model.sinks.size() != observed.sinks.size()) {
        return "there are " + std::to_string(observed.sinks.size()) + " sinks, not " +
               std::to_string(model.sinks.size());
    }
    for (const auto& [name, sink] : model.sinks) {
        const auto found = observed.sinks.find(name);
        if (found == observed.sinks.end()) return "there is no sink " + name;
        const scheduler::SinkStatus& status = found->second;
        const bool listed = status.state != SinkState::unlisted;
        if (listed && status.state != sink.state) return name + " has another state";
        if (status.topics != sink.topics) return name + " has other topics";
        const std::size_t lag = lag_of(observed, sink.seq);
        if (status.lag > lag || status.lag < wanted_lag(observed, sink)) {
            return name + " lacks " + std::to_string(status.lag) + " events, and should lack " +
                   std::to_string(lag);
        }
        const std::uint32_t attempts = status.lag < lag ? 0 : sink.attempts;  // at the next event
        if (status.attempts != attempts) return name + " has another number of attempts";
        const std::string difference = letters_difference(name, sink, observed.letters.at(name));
        if (!difference.empty()) return difference;
    }
    return "";
}

inline std::string pause_difference(const Model& model, const Observed& observed) {
    if (model.paused == observed.paused) return "";
    const auto text = [](const std::optional<ModelPause>& paused) {
        if (!paused) return std::string("not paused");
        return "paused since " + scheduler::format_time(paused->since) + " ('" + paused->reason +
               "')";
    };
    return "it should be " + text(model.paused) + ", and is " + text(observed.paused);
}

// The first thing in which they differ; empty: they agree.
inline std::string difference(const Model& model, const Observed& observed) {
    std::string found = pending_difference(model, observed);
    if (found.empty()) found = events_difference(model, observed);
    if (found.empty()) found = pause_difference(model, observed);
    if (found.empty()) found = sinks_difference(model, observed);
    return found;
}

}  // namespace sim

#endif  // TESTS_SIM_CHECK_HPP
