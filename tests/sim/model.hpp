// SPDX-License-Identifier: MIT
//
// What a scheduler is to remember, in the plainest form: maps and lists.  It is written from
// the README's guarantees and knows nothing of how the scheduler does it.

#ifndef TESTS_SIM_MODEL_HPP
#define TESTS_SIM_MODEL_HPP

#include "random.hpp"

#include "../../scheduler.hpp"

#include <map>
#include <set>

namespace sim {

using scheduler::Cursor;
using scheduler::Errc;
using scheduler::Error;
using scheduler::Event;
using scheduler::milliseconds;
using scheduler::SinkState;
using scheduler::Task;
using scheduler::TaskId;
using scheduler::TimePoint;

struct ModelTask {
    TaskId id;
    TimePoint due{};
    std::string payload;
    std::optional<milliseconds> max_lateness{};  // of its own
    std::string topic{};
    std::string name{};
};

// Whether one of these patterns is a task's topic, or stands for it.
inline bool has_topic(const std::vector<std::string>& patterns, const ModelTask& task) {
    for (const std::string& pattern : patterns) {
        const bool any_rest = pattern.back() == '*';
        const std::string begin = pattern.substr(0, pattern.size() - (any_rest ? 1 : 0));
        if (task.topic == begin) return !task.topic.empty();
        if (any_rest && !task.topic.empty() && task.topic.find(begin) == 0) return true;
    }
    return patterns.empty();
}

inline bool is_chosen(const scheduler::Filter& filter, const ModelTask& task) {
    return has_topic(filter.topics, task) &&
           (filter.text.empty() || task.payload.find(filter.text) != std::string::npos ||
            task.name.find(filter.text) != std::string::npos ||
            task.id.str().find(filter.text) != std::string::npos);
}

struct ModelEvent {
    ModelTask task;
    TimePoint at{};
    std::uint64_t seq = 0;
    bool forgotten = false;
};

struct ModelLetter {
    TaskId id;
    std::uint32_t attempts = 0;
    bool again = false;
};

struct ModelSink {
    SinkState state = SinkState::active;
    std::uint64_t seq = 0;  // of the event that it wants next
    std::uint32_t attempts = 0;
    std::map<std::uint64_t, ModelLetter> dead;
    std::vector<std::string> topics{};  // of the events that it takes; none: all

    bool wants(const ModelEvent& event) const {
        return event.seq >= seq && has_topic(topics, event.task);
    }
    void move(std::uint64_t to) {
        if (to <= seq) return;
        seq = to;
        attempts = 0;
    }
};

struct ModelPause {
    TimePoint since{};
    std::string reason;
    friend bool operator==(const ModelPause& a, const ModelPause& b) {
        return a.since == b.since && a.reason == b.reason;
    }
};

struct ModelKey {
    std::string identity;
    std::vector<TaskId> ids;
    TimePoint first_use{};
};

// One thing that happened, as the journal is to keep it.
struct Effect {
    enum class Kind {
        schedule,
        change,
        cancel,
        emit,
        miss,
        forget,
        trim,  // nothing in the journal: the scheduler has dropped old events
        pause,
        resume,
        sink_set,
        sink_attempt,
        sink_take,
        sink_letter,
        sink_again,
        sink_pass,  // events that waited for too long become letters
        sink_drop,
    };
    Kind kind = Kind::schedule;
    TimePoint at{};                        // the clock when it happened
    std::vector<ModelTask> tasks{};        // scheduled; the changed one; or also cancelled, perhaps
    std::vector<TaskId> ids{};             // cancelled, emitted or missed
    std::uint64_t seq = 0;                 // of the event; the first forgotten; the next free
    std::uint64_t end = 0;                 // of what is forgotten or trimmed
    std::string key{};                     // of the request
    std::string identity{};                // of the request
    std::string sink{};                    // whose effect it is
    SinkState state = SinkState::active;   // of the sink from now on
    std::uint32_t attempts = 0;            // at the event
    bool moves = false;                    // the letter's event was the one at hand
    std::vector<std::uint64_t> letters{};  // that are tried again, or taken
    std::string reason{};                  // of a pause
    std::vector<std::string> topics{};     // of a sink that begins
};

class Model {
public:
    std::map<TaskId, ModelTask> pending;
    std::set<std::pair<TimePoint, TaskId>> order;  // of the pending ones
    std::vector<ModelEvent> events;                // all that ever were, by seq
    std::map<TaskId, std::size_t> event_of;        // the index in `events`
    std::set<TaskId> missed;
    std::map<std::string, TaskId> newest;  // task that was put by a name
    std::optional<ModelPause> paused;
    std::map<std::string, ModelKey> keys;
    std::map<std::string, ModelSink> sinks;
    std::uint64_t next_seq = 0;
    std::uint64_t trimmed = 0;  // no event before this seq need be there
    TimePoint stamp{};          // the latest time of anything
    std::size_t max_dead = 0;   // letters of a sink

    void apply(const Effect& effect);
    // The first event from `seq` on that is not forgotten, may be read and is chosen; null: none.
    const ModelEvent* event_from(std::uint64_t seq, const scheduler::Filter& filter = {}) const;
    // The first event with that seq or a later one.
    std::vector<ModelEvent>::const_iterator at_or_after(std::uint64_t seq) const;
    // Whether a key is known for certain: one of its tasks is pending, or it is younger than
    // a day.
    bool knows(const std::string& key, TimePoint now) const;
    // Whether a task is shown with the topic and the name that it was put by.  It may have lost
    // the name to a newer task, if its end was lost.
    bool shows(const ModelTask& task, std::string_view topic, std::string_view name) const {
        if (topic != task.topic) return false;
        return name == task.name || (name.empty() && task.id < newest.at(task.name));
    }
    // Lets the name of a task mean it, if no newer one had it.
    void name(const ModelTask& task) {
        if (task.name.empty()) return;
        TaskId& id = newest[task.name];
        id = std::max(id, task.id);
    }
    // How many events are remembered from `seq` on.
    std::size_t count_from(std::uint64_t seq) const;

private:
    void put(const ModelTask& task);
    void take_out(TaskId id);
    void emit(const Effect& effect);
    void apply_to_sink(const Effect& effect);
    void pass_over(ModelSink& sink, std::uint64_t end);
    void bury(ModelSink& sink, std::uint64_t seq, const ModelLetter& letter) const;
};

inline void Model::put(const ModelTask& task) {
    name(task);
    pending[task.id] = task;
    order.emplace(task.due, task.id);
}

inline void Model::take_out(TaskId id) {
    const auto found = pending.find(id);
    if (found == pending.end()) return;
    order.erase({found->second.due, id});
    pending.erase(found);
}

inline void Model::emit(const Effect& effect) {
    for (std::size_t i = 0; i < effect.ids.size(); ++i) {
        const auto found = pending.find(effect.ids[i]);
        next_seq = std::max(next_seq, effect.seq + i + 1);
        if (found == pending.end()) continue;
        event_of[found->first] = events.size();
        events.push_back({found->second, effect.at, effect.seq + i, false});
        take_out(effect.ids[i]);
    }
}

inline void Model::apply(const Effect& effect) {
    using Kind = Effect::Kind;
    if (effect.kind != Kind::trim) stamp = std::max(stamp, effect.at);
    switch (effect.kind) {
        case Kind::schedule:
            for (const ModelTask& task : effect.tasks) put(task);
            if (!effect.key.empty()) {
                ModelKey& known = keys[effect.key];
                known = {effect.identity, {}, effect.at};
                for (const ModelTask& task : effect.tasks) known.ids.push_back(task.id);
            }
            break;
        case Kind::change:
            if (pending.count(effect.tasks.front().id) == 0) break;
            take_out(effect.tasks.front().id);
            put(effect.tasks.front());
            break;
        case Kind::cancel:
            for (const TaskId id : effect.ids) take_out(id);
            break;
        case Kind::emit:
            emit(effect);
            break;
        case Kind::miss:
            for (const TaskId id : effect.ids) {
                if (pending.count(id) != 0) missed.insert(id);
                take_out(id);
            }
            break;
        case Kind::forget:
            for (ModelEvent& event : events) {
                if (event.seq >= effect.seq && event.seq < effect.end) event.forgotten = true;
            }
            break;
        case Kind::trim:
            trimmed = effect.end;
            next_seq = std::max(next_seq, effect.seq);
            break;
        case Kind::pause:
            if (!paused) paused = ModelPause{effect.at, ""};
            if (!effect.reason.empty()) paused->reason = effect.reason;
            break;
        case Kind::resume:
            paused.reset();
            break;
        default:
            apply_to_sink(effect);
    }
}

inline void Model::apply_to_sink(const Effect& effect) {
    using Kind = Effect::Kind;
    if (effect.kind == Kind::sink_drop) {
        sinks.erase(effect.sink);
        return;
    }
    if (effect.kind == Kind::sink_set && sinks.count(effect.sink) == 0) {
        sinks[effect.sink].seq = effect.seq;
        sinks[effect.sink].topics = effect.topics;
    }
    const auto found = sinks.find(effect.sink);
    if (found == sinks.end()) return;
    ModelSink& sink = found->second;
    if (effect.kind == Kind::sink_set) {
        sink.state = effect.state;
        if (effect.state == SinkState::active) sink.attempts = 0;
    } else if (effect.kind == Kind::sink_attempt) {
        if (effect.seq < sink.seq) return;
        sink.move(effect.seq);  // behind what its topics do not choose
        sink.attempts = effect.attempts;
    } else if (effect.kind == Kind::sink_take) {
        for (const std::uint64_t letter : effect.letters) sink.dead.erase(letter);
        if (!effect.letters.empty()) return;
        sink.dead.erase(effect.seq);  // if it was given up on its way
        sink.move(effect.seq + 1);
    } else if (effect.kind == Kind::sink_letter) {
        bury(sink, effect.seq, {effect.ids.front(), effect.attempts, false});
        if (effect.moves) sink.move(effect.seq + 1);
    } else if (effect.kind == Kind::sink_pass) {
        pass_over(sink, effect.seq);
    } else {
        for (const std::uint64_t letter : effect.letters) sink.dead[letter].again = true;
    }
}

inline void Model::bury(ModelSink& sink, std::uint64_t seq, const ModelLetter& letter) const {
    sink.dead[seq] = letter;
    if (sink.dead.size() > max_dead) sink.dead.erase(sink.dead.begin());
}

inline void Model::pass_over(ModelSink& sink, std::uint64_t end) {
    for (auto at = at_or_after(sink.seq); at != events.end() && at->seq < end; ++at) {
        if (at->forgotten || !sink.wants(*at)) continue;
        bury(sink, at->seq, {at->task.id, sink.attempts, false});
        sink.attempts = 0;
    }
    sink.seq = std::max(sink.seq, end);
}

inline std::vector<ModelEvent>::const_iterator Model::at_or_after(std::uint64_t seq) const {
    return std::lower_bound(
        events.begin(), events.end(), seq,
        [](const ModelEvent& event, std::uint64_t wanted) { return event.seq < wanted; });
}

inline const ModelEvent* Model::event_from(std::uint64_t seq,
                                           const scheduler::Filter& filter) const {
    for (auto at = at_or_after(std::max(seq, trimmed)); at != events.end(); ++at) {
        if (!at->forgotten && is_chosen(filter, at->task)) return &*at;
    }
    return nullptr;
}

inline std::size_t Model::count_from(std::uint64_t seq) const {
    return static_cast<std::size_t>(
        std::count_if(at_or_after(std::max(seq, trimmed)), events.end(),
                      [](const ModelEvent& event) { return !event.forgotten; }));
}

inline bool Model::knows(const std::string& key, TimePoint now) const {
    const auto found = keys.find(key);
    if (found == keys.end()) return false;
    if (now < found->second.first_use + std::chrono::hours(24)) return true;
    return std::any_of(found->second.ids.begin(), found->second.ids.end(),
                       [this](TaskId id) { return pending.count(id) != 0; });
}

}  // namespace sim

#endif  // TESTS_SIM_MODEL_HPP
