// SPDX-License-Identifier: MIT
//
// Crashes, losses of power, and what must be there when the next process has started.

#ifndef TESTS_SIM_WORLD_FAULTS_HPP
#define TESTS_SIM_WORLD_FAULTS_HPP

#include "world.hpp"

namespace sim {

// The process ends: cleanly, so that what was begun is stored, or by a crash.
inline void World::end_process(bool cleanly) {
    const bool was_inside = has_crashed();
    if (!cleanly && was_inside) {
        marks_.hit("a crash of the process inside a call");
        if (disk_.exists("/sim/tasks.jsonl.new")) marks_.hit("a crash during a replacement");
        if (disk_.has_unsynced_names() && !disk_.exists("/sim/tasks.jsonl.new")) {
            marks_.hit("a crash between a rename and the sync of its directory");
        }
    }
    if (!cleanly) disk_.end_process();
    Memory::work();
    memory_armed_ = false;
    for (const auto& reader : readers_) reader->subscription.stop();
    const bool calm = cleanly && !was_inside && !journal_failed_ && !owed_ && !disk_.is_full();
    const std::uint64_t failures = disk_.failures();
    sinks_.reset();
    for (auto& [name, effect] : unsettled_) log_.push_back({std::move(effect), Ghost::any});
    unsettled_.clear();
    std::vector<BegunRef> begun = open_;
    begun.insert(begun.end(), bulks_.begin(), bulks_.end());
    tickets_.clear();
    open_.clear();
    for (const BegunRef& one : begun) one->ticket.reset();
    tasks_.reset();
    const bool stored = calm && !has_crashed() && disk_.failures() == failures;
    for (const BegunRef& one : begun) {
        if (one->bulk) one->effect.at = now();
        if (!stored) {
            if (one->bulk) add_doubtful(*one);
            log_.push_back({one->effect, Ghost::any});
            continue;
        }
        log(one->effect);
        if (!one->bulk) offer(one);
    }
    if (stored && !begun.empty()) marks_.hit("a clean end that stored what was begun");
    for (Logged& one : log_) one.floats = one.floats && !stored;
    if (stored) kept_by_crash_ = log_.size();
    // Without a policy that syncs, the journal's name may never have been.
    if (stored && plan_.options.fsync != scheduler::Fsync::no) kept_by_power_ = log_.size();
    bulks_.clear();
    disk_.end_process();
}

inline void World::restart(bool cleanly, bool power) {
    trace(cleanly ? "the process ends" : power ? "the power is lost" : "the process crashes");
    end_process(cleanly);
    // What the cache shows then is nowhere else, and the kernel keeps it for as long as it likes.
    const bool dropped = disk_.has_dropped();
    power = power || dropped;
    bool scattered = false;
    if (power) {
        scattered = dropped || (plan_.scattered && random_.chance(50));
        disk_.lose_power(scattered ? Remains::scattered : Remains::prefix);
        marks_.hit(scattered ? "a loss of power that kept writes out of order" : "a loss of power");
    }
    disk_.begin_process();
    if (plan_.damage && random_.chance(40)) damage_journal();
    const std::string journal = trace_ ? disk_.read("/sim/tasks.jsonl") : "";
    open();
    const bool lost = std::exchange(power_lost_at_start_, false);
    try {
        match(power || lost, scattered || lost);
    } catch (const Failure&) {
        trace("the journal was:\n" + journal);
        throw;
    }
    rewrites_ = tasks_->stats().journal_rewrites;
    if (rewrites_ > 0) {
        kept_by_crash_ = kept_by_power_ = log_.size();
        absorb();
    }
    resume_readers();
    check_all();
}

// Damage that leaves every record intact: a newline that is none any more, a line of rubbish
// between others, the beginning of a line at the end.
inline void World::damage_journal() {
    const std::string path = "/sim/tasks.jsonl";
    if (!disk_.exists(path)) return;
    const std::uint64_t kind = random_.below(3);
    disk_.damage(path, [&](std::string& bytes) {
        if (bytes.empty()) return;
        const std::size_t newline = bytes.find('\n', random_.below(bytes.size()));
        const bool inside = newline != std::string::npos && newline + 1 < bytes.size();
        if (kind == 0 && inside) {
            bytes[newline] = static_cast<char>(random_.below(256));
        } else if (kind == 1 && inside) {
            bytes.insert(newline + 1, "what somebody has typed into it {\"op\":\"cancel\"\n");
        } else {
            bytes += "{\"op\":\"schedule\",\"tasks\":[{\"id\":\"0";
        }
    });
    trace("the journal is damaged");
    damaged_ = true;
}

inline void World::open() {
    if (random_.chance(20)) disk_.crash_in = random_.between(1, 30);
    while (!try_to_open()) {
        if (has_crashed()) marks_.hit("a crash while the journal was opened");
        if (has_crashed() || random_.chance(70)) {
            disk_.faults = {};
            disk_.empty();
        }
        // As in restart(): what the cache shows is nowhere else.
        if (disk_.has_dropped()) {
            disk_.lose_power(Remains::scattered);
            power_lost_at_start_ = true;
        }
        disk_.begin_process();
    }
    ++processes_;
    group_ = 1;
    owed_ = journal_failed_ = false;
    has_reserved_ = !disk_.is_full() && disk_.failures() == failures_at_call_;
    first_seq_ = tasks_->newest().seq();
    (void)tasks_->add_companion({[this] { on_emission(); }, nullptr, nullptr});
}

// An opening that fails has a reason, and changes nothing.
inline bool World::try_to_open() {
    plan_.options.files = disk_.calls();
    const Result result =
        call([&] { tasks_ = std::make_unique<scheduler::Scheduler>(plan_.options); });
    trace("opened: " + (result.ok ? std::string("well") : result.what));
    if (has_crashed()) {
        tasks_.reset();
        return false;
    }
    if (result.ok) return true;
    require(result.faulted || disk_.is_full(), "the journal cannot be opened");
    marks_.hit("an opening that failed and changed nothing");
    return false;
}

inline void World::trace_found(const Observed& observed) const {
    if (!trace_) return;
    std::string line = "found " + std::to_string(observed.pending.size()) + " pending tasks, " +
                       std::to_string(observed.events.size()) + " events before " +
                       std::to_string(observed.newest);
    for (const auto& [name, sink] : observed.sinks) {
        line += ", " + name + " lacks " + std::to_string(sink.lag);
    }
    trace(line);
}

// Finds the point of the log at which the scheduler stands.
inline void World::match(bool power, bool scattered) {
    const Observed observed(*tasks_);
    trace_found(observed);
    const std::size_t first = power ? std::min(kept_by_power_, log_.size()) : kept_by_crash_;
    if (scattered) {
        match_scattered(observed, first);
    } else {
        match_prefix(power, observed, first);
    }
    const scheduler::Stats stats = tasks_->stats();
    if (damaged_) {
        if (stats.damaged_lines > 0) marks_.hit("a salvage of damaged lines");
        damaged_ = false;
    }
    if (stats.torn_bytes > 0) marks_.hit("a torn tail cut off");
    if (stats.paused) marks_.hit("a pause that a restart has kept");
    judge_trust(stats.clock_trusted);
    if (!trusted_) marks_.hit("a clock that was not trusted");
    if (!power) return;
    base_ = live_;
    log_.clear();
    ages_.clear();
    kept_by_crash_ = kept_by_power_ = 0;
}

// The difference, if the scheduler may have dropped old events while it read the journal.
inline std::string World::difference_at_start(Model& model, const Observed& observed) const {
    drop_old(model, observed);
    return difference(model, observed);
}

inline void World::drop_old(Model& model, const Observed& observed) const {
    const std::uint64_t first =
        observed.events.empty() ? observed.newest : observed.events.front().seq;
    const milliseconds kept = plan_.options.min_retention;
    // Whether it was old when some later event was emitted, or is now.
    const auto is_old = [&](std::vector<ModelEvent>::const_iterator event) {
        const auto at = [&](TimePoint time) {
            return event->at + kept <= time || event->at > time + kept;
        };
        return at(now()) || std::any_of(event, model.events.cend(),
                                        [&](const ModelEvent& later) { return at(later.at); });
    };
    bool may_go = true;
    for (auto at = model.at_or_after(model.trimmed); at != model.events.end(); ++at) {
        if (at->seq >= first || !may_go) break;
        if (at->forgotten) continue;
        may_go = model.count_from(at->seq + 1) >= plan_.options.history && is_old(at);
        for (const auto& [name, sink] : model.sinks) may_go = may_go && !sink.wants(*at);
    }
    if (may_go) model.trimmed = std::max(model.trimmed, first);
}

// A clock that is more than ten seconds behind the journal is not trusted.
inline void World::judge_trust(bool is_trusted) {
    const bool behind = now() + std::chrono::seconds(10) < live_.stamp;
    trusted_ = !behind || plan_.options.trust_clock;
    if (behind && trusted_) live_.stamp = now();
    if (stamp_known_ && is_trusted != trusted_) {
        fail(std::string("the clock is ") + (is_trusted ? "" : "not ") +
             "trusted, and the newest time of the journal is " +
             scheduler::format_time(live_.stamp));
    }
    trusted_ = is_trusted;
}

// The scheduler stands at the last point of the log that agrees with what is there.
inline void World::match_prefix(bool power, const Observed& observed, std::size_t first) {
    Path path{base_, {}, 0};
    Found found;
    found.least = log_.size();
    for (std::size_t i = 0;;) {
        const bool ghost = i < log_.size() && log_[i].ghost != Ghost::none;
        if (i >= first && !ghost) try_point(path, i, observed, found);
        if (i == log_.size()) break;
        if (!ghost) {
            follow(path, i++, power, observed);
        } else if (i + 1 < first) {
            leave_ghost(path, i++, power);
        } else {
            i = try_ghosts(path, i, power, observed, found);
        }
    }
    if (!found.path || trace_) trace_log(first);
    if (!found.path) {
        fail(std::string(power ? "after a loss of power: " : "after a crash: ") + found.wrong);
    }
    doubt_keys(found.least);
    mark_lost(found.path->log);
    // Of what left nothing that shows, the time may be there or not.
    if (found.least < log_.size()) stamp_known_ = false;
    kept_by_power_ = found.path->sure;
    adopt(std::move(found.path->model), std::move(found.path->log), observed);
}

// What a crash has not left may have been written and overwritten, neither of it synced: then
// a loss of power may bring it back.
inline void World::leave_ghost(Path& path, std::size_t at, bool power) const {
    if (!power) path.log.push_back({log_[at].effect, Ghost::power, false, false});
}

// Goes on by the entry `at` of the log, or by as much of it as can be seen.
inline void World::follow(Path& path, std::size_t at, bool power,
                          const Observed& observed) const {
    Logged next = log_[at];
    if (next.floats || (next.late && power) || next.ghost != Ghost::none) {
        auto part = part_found(path.model, std::move(next.effect), observed);
        if (!part) return;
        next.effect = std::move(*part);
        next.ghost = Ghost::none;
        next.floats = false;
    }
    path.model.apply(next.effect);
    path.log.push_back(std::move(next));
    if (at < kept_by_power_) path.sure = path.log.size();
}

// What sinks give up in one run is recorded in an order that does not show, so that of each
// sink's there may be more than of another's.
inline void World::pass_over_in_part(Path& path, std::size_t at, const Observed& observed) const {
    std::set<std::string> passed;
    for (; at < log_.size(); ++at) {
        const Effect& effect = log_[at].effect;
        if (effect.kind != Effect::Kind::sink_pass || !passed.insert(effect.sink).second) continue;
        auto part = part_found(path.model, effect, observed);
        if (!part) continue;
        path.model.apply(*part);
        path.log.push_back({std::move(*part), Ghost::none, false, false});
    }
}

inline void World::try_point(const Path& path, std::size_t at, const Observed& observed,
                             Found& found) const {
    found.wrong = pending_difference(path.model, observed);
    if (found.wrong.empty()) {
        Path here = path;
        pass_over_in_part(here, at, observed);
        found.wrong = difference_at_start(here.model, observed);
        if (found.wrong.empty()) found.path = std::move(here);
    }
    if (trace_) trace("with " + std::to_string(at) + " of the log: " + found.wrong);
    if (found.wrong.empty()) found.least = std::min(found.least, at);
}

// From the entry `at` on, tries what was refused or never answered with as much of that as
// can be seen.  Returns where the next entry is that was answered.
inline std::size_t World::try_ghosts(const Path& path, std::size_t at, bool power,
                                     const Observed& observed, Found& found) const {
    Path other = path;
    std::size_t end = at;
    for (; end < log_.size() && log_[end].ghost != Ghost::none; ++end) {
        const std::size_t before = other.log.size();
        if (power || log_[end].ghost == Ghost::any) follow(other, end, power, observed);
        if (other.log.size() == before) leave_ghost(other, end, power);
    }
    const std::string wrong = difference_at_start(other.model, observed);
    if (trace_) trace("with what was not answered: " + wrong);
    if (!wrong.empty()) return end;
    found.least = std::min(found.least, at);
    const auto kept = std::find_if(
        other.log.begin() + static_cast<std::ptrdiff_t>(path.log.size()), other.log.end(),
        [](const Logged& one) { return one.ghost == Ghost::none; });
    marks_.hit(kept != other.log.end() ? "a crash of which a begun change was kept"
                                       : "a crash of which a begun change was lost");
    found.path = std::move(other);
    return end;
}

// Shows what should have been there from a bound of the log on.
inline void World::trace_log(std::size_t first) const {
    constexpr std::array names{"schedule",    "change",     "cancel",       "emit",
                               "miss",        "forget",     "trim",         "pause",
                               "resume",      "sink_set",   "sink_attempt", "sink_take",
                               "sink_letter", "sink_again", "sink_pass",    "sink_drop"};
    for (std::size_t i = 0; i < log_.size(); ++i) {
        const Effect& effect = log_[i].effect;
        std::string line = i < first ? "  kept " : "  open ";
        if (log_[i].ghost != Ghost::none) line += "ghost ";
        line += names[static_cast<std::size_t>(effect.kind)];
        if (!effect.sink.empty()) line += ' ' + effect.sink;
        line += ' ' + std::to_string(effect.seq);
        for (const ModelTask& task : effect.tasks) line += ' ' + task.id.str();
        for (const TaskId id : effect.ids) line += ' ' + id.str();
        trace(line);
    }
}

// Whatever of what was not synced may be there: each task in any form that it had, each event
// with what there was of its task.  What was synced, and not touched since, must be.
inline void World::match_scattered(const Observed& observed, std::size_t first) {
    Model model = scattered_model(observed, first);
    drop_old(model, observed);
    std::string wrong = pending_difference(model, observed);
    if (wrong.empty()) wrong = events_difference(model, observed);
    if (wrong.empty()) wrong = pause_difference(model, observed);
    if (!wrong.empty()) trace_log(first);
    if (!wrong.empty()) fail("after a loss of power out of order: " + wrong);
    doubt_keys(first);
    adopt(std::move(model), {}, observed);
    stamp_known_ = false;
    sinks_adopted_ = sinks_adopted_ || !live_.sinks.empty();
}

inline Model World::scattered_model(const Observed& observed, std::size_t first) const {
    using Kind = Effect::Kind;
    Model model = base_;
    Versions versions;
    std::set<TaskId> touched;
    std::set<TaskId> ended;
    for (std::size_t i = 0; i < log_.size(); ++i) {
        const Effect& effect = log_[i].effect;
        if (i < first && log_[i].ghost == Ghost::none) {
            model.apply(effect);
            continue;
        }
        for (const ModelTask& task : effect.tasks) {
            const auto before = model.pending.find(task.id);
            if (before != model.pending.end()) versions[task.id].push_back(before->second);
            versions[task.id].push_back(task);
            model.name(task);  // it may have had the name, and be gone
            touched.insert(task.id);
        }
        if (effect.sink.empty()) touched.insert(effect.ids.begin(), effect.ids.end());
        if (effect.kind == Kind::schedule && !effect.key.empty()) {
            ModelKey& known = model.keys[effect.key];
            known = {effect.identity, {}, effect.at};
            for (const ModelTask& task : effect.tasks) known.ids.push_back(task.id);
        }
        if (effect.kind == Kind::trim) model.apply(effect);
        if (is_pause(effect)) model.paused = observed.paused;
        model.stamp = std::max(model.stamp, effect.at);
    }
    for (const TaskId id : touched) {
        const auto at = model.pending.find(id);
        if (at == model.pending.end()) continue;
        if (versions.count(id) == 0) versions[id].push_back(at->second);
        model.order.erase({at->second.due, id});
        model.pending.erase(at);
    }
    add_scattered_tasks(model, observed, versions);
    take_scattered_rest(model, observed, first);
    return model;
}

// Each task that may have changed stands as one of its versions says.
inline void World::add_scattered_tasks(Model& model, const Observed& observed,
                                       const Versions& versions) const {
    for (const Task& task : observed.pending) {
        const auto known = versions.find(task.id);
        if (known == versions.end()) continue;
        for (const ModelTask& version : known->second) {
            if (version.due != task.due || version.payload != task.text()) continue;
            model.pending[task.id] = version;
            model.name(version);
            model.order.emplace(version.due, task.id);
            break;
        }
    }
    for (const Event& event : observed.events) add_scattered_event(model, event, versions);
    for (const auto& [id, all] : versions) {
        const auto task = tasks_->find(id);
        if (task && task->status == scheduler::Status::missed) model.missed.insert(id);
    }
}

// An event that the base has not got must be one that was emitted since.
inline void World::add_scattered_event(Model& model, const Event& event,
                                       const Versions& versions) const {
    const auto same = model.at_or_after(event.seq);
    if (same != model.events.end() && same->seq == event.seq) return;
    const auto known = versions.find(event.id);
    if (known == versions.end()) return;
    const bool emitted = std::any_of(log_.begin(), log_.end(), [&event](const Logged& one) {
        const std::vector<TaskId>& ids = one.effect.ids;
        const auto at = std::find(ids.begin(), ids.end(), event.id);
        return one.effect.kind == Effect::Kind::emit && at != ids.end() &&
               one.effect.seq + static_cast<std::size_t>(at - ids.begin()) == event.seq &&
               one.effect.at == event.emitted_at;
    });
    if (!emitted) return;
    for (const ModelTask& version : known->second) {
        if (version.due != event.due || version.payload != event.text()) continue;
        model.event_of[event.id] = model.events.size();
        model.events.push_back({version, event.emitted_at, event.seq, false});
        return;
    }
}

// What is forgotten, and how the sinks stand, is taken as it is: any of that may be lost.
inline void World::take_scattered_rest(Model& model, const Observed& observed,
                                       std::size_t first) const {
    std::set<std::uint64_t> there;
    for (const Event& event : observed.events) there.insert(event.seq);
    for (std::size_t i = first; i < log_.size(); ++i) {
        const Effect& effect = log_[i].effect;
        if (effect.kind != Effect::Kind::forget) continue;
        for (ModelEvent& event : model.events) {
            const bool inside = event.seq >= effect.seq && event.seq < effect.end;
            if (inside && there.count(event.seq) == 0) event.forgotten = true;
        }
    }
    model.next_seq = observed.newest;
    model.sinks.clear();
    for (const auto& [name, status] : observed.sinks) {
        ModelSink& sink = model.sinks[name];
        sink.state = status.state;
        sink.topics = status.topics;
        sink.attempts = status.attempts;
        sink.seq = status.lag == 0 ? observed.newest
                                   : observed.events[observed.events.size() - status.lag].seq;
        for (const scheduler::DeadLetter& letter : observed.letters.at(name)) {
            sink.dead[letter.event.seq] = {letter.event.id, letter.attempts, letter.redelivering};
        }
    }
}

// Keys of requests that left nothing else behind may be known or not.
inline void World::doubt_keys(std::size_t from) {
    for (std::size_t i = 0; i < log_.size(); ++i) {
        const bool doubtful = i >= from || log_[i].ghost != Ghost::none;
        if (doubtful && !log_[i].effect.key.empty()) unsure_.insert(log_[i].effect.key);
    }
}

// As much of an effect as can be seen; nothing: it cannot be seen to have happened.
inline std::optional<Effect> World::part_found(const Model& model, Effect effect,
                                               const Observed& observed) const {
    const bool applied = effect.sink.empty() ? looks_applied(model, effect, observed)
                                             : looks_applied_to_sink(effect, observed);
    if (applied && effect.kind == Effect::Kind::cancel) {
        for (const ModelTask& task : effect.tasks) {
            if (observed.place_of.count(task.id) == 0) effect.ids.push_back(task.id);
        }
    }
    if (effect.kind != Effect::Kind::sink_pass || applied) {
        return applied ? std::optional(std::move(effect)) : std::nullopt;
    }
    // What a sink gives up at once may be several records, of which a crash has left some.
    const auto sink = model.sinks.find(effect.sink);
    const auto status = observed.sinks.find(effect.sink);
    if (sink == model.sinks.end() || status == observed.sinks.end()) return std::nullopt;
    const std::size_t lag = status->second.lag;
    effect.seq = std::min(effect.seq, observed.newest);
    while (effect.seq > sink->second.seq && lag_of(observed, effect.seq) < lag) --effect.seq;
    if (effect.seq <= sink->second.seq) return std::nullopt;
    return effect;
}

inline bool World::looks_applied(const Model& model, const Effect& effect,
                                 const Observed& observed) const {
    using Kind = Effect::Kind;
    const auto is_pending = [&](TaskId id) { return observed.place_of.count(id) != 0; };
    const auto has_event = [&](TaskId id, std::uint64_t seq) {
        return std::any_of(observed.events.begin(), observed.events.end(),
                           [&](const Event& event) { return event.id == id && event.seq == seq; });
    };
    if (effect.kind == Kind::schedule) {
        return std::any_of(effect.tasks.begin(), effect.tasks.end(), [&](const ModelTask& task) {
            return is_pending(task.id) || tasks_->find(task.id).has_value();
        });
    }
    if (effect.kind == Kind::change) {
        const auto task = tasks_->find(effect.tasks.front().id);
        return task && task->text() == effect.tasks.front().payload;
    }
    if (effect.kind == Kind::cancel || effect.kind == Kind::miss) {
        return std::none_of(effect.ids.begin(), effect.ids.end(), is_pending);
    }
    if (effect.kind == Kind::emit) {
        for (std::size_t i = 0; i < effect.ids.size(); ++i) {
            if (has_event(effect.ids[i], effect.seq + i)) return true;
        }
        return false;
    }
    if (effect.kind == Kind::forget) {
        // Also of what was dropped and has come back, but not of what is gone.
        if (observed.events.empty()) return true;
        const std::uint64_t there = std::min(model.trimmed, observed.events.front().seq);
        const std::uint64_t first = std::max(effect.seq, there);
        const auto event =
            std::find_if(model.at_or_after(first), model.events.cend(),
                         [](const ModelEvent& one) { return !one.forgotten; });
        return event != model.events.cend() && event->seq < effect.end &&
               !has_event(event->task.id, event->seq);
    }
    if (effect.kind == Kind::pause && !model.paused) {
        return observed.paused && observed.paused->since == effect.at &&
               observed.paused->reason == effect.reason;
    }
    if (effect.kind == Kind::pause) {
        return observed.paused && observed.paused->reason == effect.reason;
    }
    if (effect.kind == Kind::resume) return model.paused && !(observed.paused == model.paused);
    return observed.events.empty() || observed.events.front().seq >= effect.end;  // a trim
}

inline bool World::looks_applied_to_sink(const Effect& effect, const Observed& observed) {
    using Kind = Effect::Kind;
    const auto sink = observed.sinks.find(effect.sink);
    if (sink == observed.sinks.end()) return effect.kind == Kind::sink_drop;
    const scheduler::SinkStatus& status = sink->second;
    const auto& letters = observed.letters.at(effect.sink);
    const auto has_letter = [&](std::uint64_t seq, auto also) {
        return std::any_of(letters.begin(), letters.end(), [&](const auto& letter) {
            return letter.event.seq == seq && also(letter);
        });
    };
    const auto any = [](const scheduler::DeadLetter&) { return true; };
    switch (effect.kind) {
        case Kind::sink_letter:
            return has_letter(effect.seq, [&](const scheduler::DeadLetter& letter) {
                return letter.attempts == effect.attempts;
            });
        case Kind::sink_set:
            return status.state == effect.state &&
                   (effect.state != SinkState::active || status.attempts == 0);
        case Kind::sink_attempt:
            // Or more were made since, or it was given up as a letter.
            return (status.attempts >= effect.attempts &&
                    status.lag <= lag_of(observed, effect.seq)) ||
                   has_letter(effect.seq, [&](const scheduler::DeadLetter& letter) {
                       return letter.attempts == effect.attempts;
                   });
        case Kind::sink_again:
            return std::none_of(
                effect.letters.begin(), effect.letters.end(), [&](std::uint64_t seq) {
                    return has_letter(seq, [](const scheduler::DeadLetter& letter) {
                        return !letter.redelivering;
                    });
                });
        case Kind::sink_take:
            if (!effect.letters.empty()) return !has_letter(effect.letters.front(), any);
            return effect.seq < observed.newest &&
                   status.lag <= lag_of(observed, effect.seq + 1);
        case Kind::sink_pass:
            return effect.seq <= observed.newest && status.lag <= lag_of(observed, effect.seq);
        default:
            return false;  // it was to be dropped, and is there
    }
}

inline void World::mark_lost(const std::vector<Logged>& kept) {
    std::size_t changes = 0;
    std::size_t emissions = 0;
    const auto count = [&](const std::vector<Logged>& all, std::size_t sign) {
        for (const Logged& one : all) {
            if (one.ghost != Ghost::none) continue;
            if (one.effect.kind == Effect::Kind::schedule) changes += sign;
            if (one.effect.kind == Effect::Kind::emit) emissions += sign;
        }
    };
    count(log_, 1);
    count(kept, static_cast<std::size_t>(-1));
    if (changes > 0 && changes < log_.size()) {
        marks_.hit("an acknowledged change lost under everysec or no");
    }
    if (emissions > 0 && emissions < log_.size()) {
        marks_.hit("an emission lost with the power and repeated");
    }
}

// From here on this is what there is.
inline void World::adopt(Model model, std::vector<Logged> log, const Observed& observed) {
    live_ = std::move(model);
    log_ = std::move(log);
    kept_by_crash_ = late_end_ = log_.size();
    ages_.clear();
    Effect effect;
    effect.kind = Effect::Kind::trim;
    effect.end = observed.events.empty() ? observed.newest : observed.events.front().seq;
    effect.seq = observed.newest;
    this->log(std::move(effect));
}

}  // namespace sim

#endif  // TESTS_SIM_WORLD_FAULTS_HPP
