// SPDX-License-Identifier: MIT
//
// Emission and whoever reads: subscriptions and sinks.

#ifndef TESTS_SIM_WORLD_READERS_HPP
#define TESTS_SIM_WORLD_READERS_HPP

#include "world.hpp"

namespace sim {

// ---- Emission ------------------------------------------------------------------

inline void World::run_due() {
    if (!sinks_ && plan_.sinks && !memory_armed_) list_sinks();
    if (has_crashed()) return;
    trace("run_due()");
    running_ = true;
    std::size_t emitted = 0;
    const std::uint64_t before = live_.next_seq;
    const Result result = call([&] { emitted = tasks_->run_due(); });
    running_ = false;
    if (result.memory) marks_.hit("a failed allocation while running");
    require(result.ok || result.memory, "run_due() has thrown");
    resolve_all(result);
    on_emission();
    observe();
    if (!said_.empty()) throw Failure(said_);
    if (!has_crashed() && result.ok) {
        require(emitted == live_.next_seq - before, "run_due() says another number of emissions");
    }
    after_run(result);
    advance_bounds(false, true, result);
}

// All that was due, and nothing else, was emitted: whatever became of the journal.
inline void World::after_run(const Result& result) {
    if (has_crashed() || result.memory) return;
    update_trust();
    if (!trusted_) return;
    const std::set<TaskId> held = busy();
    for (const auto& [due, id] : live_.order) {
        if (due > now()) break;
        if (live_.paused) {
            marks_.hit("a pause that held back what was due");
            require(!tasks_->next_wake() || *tasks_->next_wake() != due,
                    "a paused scheduler wakes up for what is due");
            break;
        }
        if (held.count(id) == 0) fail("task " + id.str() + " is due and was not emitted");
    }
    for (const auto& reader : readers_) {
        if (!reader->active) continue;
        require(!live_.event_from(reader->next, reader->filter),
                "a subscription has not had every event");
    }
}

// Called after each batch of emissions, and when it may be that there was one.
inline void World::on_emission() {
    if (!tasks_) return;
    const Memory::Pause pause;
    try {
        if (running_) resolve_all(result_so_far());
        std::vector<ModelTask> due;
        const std::set<TaskId> held = busy();
        for (const auto& [time, id] : live_.order) {
            if (time > now() || live_.paused) break;
            if (held.count(id) == 0) due.push_back(live_.pending.at(id));
        }
        emit_expected(due);
        observe();
    } catch (const std::exception& error) {
        if (said_.empty()) said_ = error.what();
    }
}

// Holds what was emitted or given up against what was due, in order.
inline void World::emit_expected(const std::vector<ModelTask>& due) {
    Effect emitted;
    emitted.kind = Effect::Kind::emit;
    emitted.at = now();
    emitted.seq = live_.next_seq;
    Effect missed;
    missed.kind = Effect::Kind::miss;
    missed.at = now();
    const auto page =
        tasks_->events({all_of_them, Cursor(live_.next_seq), std::nullopt, all_of_them});
    std::size_t i = 0;
    for (const ModelTask& task : due) {
        const auto lateness = task.max_lateness ? task.max_lateness : plan_.options.max_lateness;
        const bool late = lateness && now() - std::max(task.due, task.id.time()) > *lateness;
        if (late) {
            const auto found = tasks_->find(task.id);
            if (!found || found->status != scheduler::Status::pending) {
                missed.ids.push_back(task.id);
                if (task.max_lateness) marks_.hit("a task that was missed by its own lateness");
                if (task.due < resumed_at_) marks_.hit("a task that was missed after a pause");
            }
            continue;
        }
        if (i == page.events.size()) continue;
        const ModelEvent expected{task, now(), live_.next_seq + i, false};
        const std::string wrong = event_difference(live_, expected, page.events[i++]);
        if (!wrong.empty()) fail(wrong);
        emitted.ids.push_back(task.id);
    }
    if (i < page.events.size()) {
        fail("task " + page.events[i].id.str() + " was emitted that was not due");
    }
    if (emitted.ids.empty() && missed.ids.empty()) return;
    update_trust();
    if (!stamp_known_) trusted_ = tasks_->stats().clock_trusted;
    require(trusted_, "tasks were emitted although the clock is not trusted");
    if (!missed.ids.empty()) marks_.hit("a task that was missed");
    if (journal_failed_ && !emitted.ids.empty()) {
        marks_.hit("a journal that failed and emitted all the same");
    }
    if (!emitted.ids.empty()) log(std::move(emitted));
    if (!missed.ids.empty()) log(std::move(missed));
    const bool has_room = !disk_.is_full() || has_reserved_;
    const bool well = !has_crashed() && !journal_failed_ && !owed_ && has_room;
    if (well && disk_.failures() == failures_at_call_ && Memory::failures() == memory_at_call_) {
        kept_by_crash_ = log_.size();  // it was written before it was shown
    } else if (!has_crashed()) {
        marks_.hit("an emission owed to the journal");
    }
}

// Takes in what the scheduler does by itself.
inline void World::observe() {
    if (plan_.sinks) observe_sinks();
    observe_trim();
}

// History is dropped only beyond its limits: of count, of age, and of what sinks want.
inline void World::observe_trim() {
    const std::uint64_t oldest = tasks_->oldest().seq();
    if (oldest <= live_.trimmed) return;
    Effect effect;
    effect.kind = Effect::Kind::trim;
    effect.end = oldest;
    effect.seq = live_.next_seq;
    bool any = false;
    for (auto at = live_.at_or_after(live_.trimmed); at != live_.events.end(); ++at) {
        if (at->seq >= oldest) break;
        if (at->forgotten) continue;
        any = true;
        const milliseconds kept = plan_.options.min_retention;
        const bool is_old = at->at + kept <= now() || at->at > now() + kept;
        require(is_old, "an event was dropped before its time");
        for (const auto& [name, sink] : live_.sinks) {
            if (sink.wants(*at)) fail("an event was dropped that sink " + name + " wants");
        }
    }
    if (any) {
        require(live_.count_from(oldest) >= plan_.options.history, "too much history was dropped");
        marks_.hit("history that was trimmed");
    }
    log(std::move(effect));
}

// ---- Subscriptions ---------------------------------------------------------------

inline void World::subscribe() {
    for (const auto& reader : readers_) {
        if (reader->active) continue;
        marks_.hit("a subscription resumed");
        return start(*reader);
    }
    if (readers_.size() >= 3) return;
    readers_.push_back(std::make_unique<Reader>());
    readers_.back()->next = random_.chance(50) ? live_.next_seq : live_.trimmed;
    if (random_.chance(40)) readers_.back()->filter = draw_filter();
    start(*readers_.back());
}

inline void World::start(Reader& reader) {
    reader.active = true;
    reader.subscription = tasks_->subscribe(
        [this, &reader](const Event& event) {
            const Memory::Pause pause;
            on_read(reader, event);
        },
        Cursor(reader.next), reader.filter);
}

inline void World::on_read(Reader& reader, const Event& event) {
    if (!said_.empty()) return;
    const ModelEvent* expected = live_.event_from(reader.next, reader.filter);
    if (!has_crashed() && (!expected || expected->seq != event.seq)) {
        observe();
        expected = live_.event_from(reader.next, reader.filter);
    }
    if (!reader.filter.is_open()) marks_.hit("an event that a subscription's filter has chosen");
    if (!expected) {
        said_ = "a subscription was given event " + std::to_string(event.seq) + ", behind " +
                std::to_string(reader.next);
        return;
    }
    const std::string wrong = event_difference(live_, *expected, event);
    if (!wrong.empty()) said_ = "a subscription: " + wrong;
    reader.next = event.seq + 1;
}

inline void World::unsubscribe() {
    for (const auto& reader : readers_) {
        if (!reader->active || random_.chance(50)) continue;
        reader->subscription.stop();
        reader->active = false;
        return;
    }
}

// A client goes on behind the last event that it has seen; where that could not be written it
// is no event any more, and the client begins with the oldest.
inline void World::resume_readers() {
    for (const auto& reader : readers_) {
        if (reader->next > 0) {
            const auto last = live_.at_or_after(reader->next - 1);
            const bool known = last != live_.events.end() && last->seq + 1 == reader->next;
            if (!known) reader->next = live_.trimmed;
        }
        if (!reader->active) continue;
        start(*reader);
        marks_.hit("a subscription resumed after a restart");
    }
}

// ---- Sinks -------------------------------------------------------------------------

class World::Receiver : public scheduler::Sink {
public:
    Receiver(World& world, std::string name) : world_(world), name_(std::move(name)) {}
    scheduler::Outcome deliver(const scheduler::Delivery& delivery) override {
        const Memory::Pause pause;
        return world_.on_delivery(name_, delivery);
    }

private:
    World& world_;
    const std::string name_;
};

inline const World::SinkPlan& World::sink_plan(const std::string& name) const {
    return *std::find_if(sink_plans_.begin(), sink_plans_.end(),
                         [&name](const SinkPlan& plan) { return plan.name == name; });
}

// The listed sinks, as the scheduler is given them.
inline std::vector<scheduler::SinkOptions> World::sink_options() {
    std::vector<scheduler::SinkOptions> options;
    for (const std::string& name : listed_) {
        const SinkPlan& plan = sink_plan(name);
        scheduler::SinkOptions one;
        one.name = name;
        one.sink = std::make_shared<Receiver>(*this, name);
        one.retry.assign(plan.retries, std::chrono::seconds(5));
        one.from_earliest = plan.from_earliest;
        one.topics = plan.topics;
        options.push_back(std::move(one));
    }
    return options;
}

// The seq of the oldest event when all that may be dropped now is.
inline std::uint64_t World::oldest_kept() const {
    const milliseconds kept = plan_.options.min_retention;
    for (auto at = live_.at_or_after(live_.trimmed); at != live_.events.end(); ++at) {
        if (at->forgotten) continue;
        const bool is_old = at->at + kept <= now() || at->at > now() + kept;
        const bool is_wanted =
            std::any_of(live_.sinks.begin(), live_.sinks.end(), [&](const auto& one) {
                const auto& [name, sink] = one;
                if (listed_.count(name) == 0) return sink.seq <= at->seq;
                const ModelEvent* const next = live_.event_from(sink.seq, {{}, sink.topics});
                return next && next->seq <= at->seq;  // it passes over what comes before
            });
        const bool is_much = live_.count_from(at->seq) > plan_.options.history;
        if (!is_old || is_wanted || !is_much) return at->seq;
    }
    return live_.next_seq;
}

// What comes of it when these sinks are listed.
inline std::vector<Effect> World::listing_effects(scheduler::Unlisted others) const {
    std::vector<Effect> effects;
    const std::uint64_t oldest = oldest_kept();
    for (const std::string& name : listed_) {
        if (live_.sinks.count(name) != 0) continue;
        Effect effect;
        effect.kind = Effect::Kind::sink_set;
        effect.at = now();
        effect.sink = name;
        effect.seq = sink_plan(name).from_earliest ? oldest : std::max(first_seq_, oldest);
        effect.topics = sink_plan(name).topics;
        effects.push_back(std::move(effect));
    }
    for (const auto& [name, sink] : live_.sinks) {
        if (others == scheduler::Unlisted::keep || listed_.count(name) != 0) continue;
        Effect effect;
        effect.kind = Effect::Kind::sink_drop;
        effect.at = now();
        effect.sink = name;
        effects.push_back(std::move(effect));
    }
    return effects;
}

// A new sink begins with the oldest event, which may go in the same call: a sink that was too far
// behind gives up its oldest ones first.
inline void World::begin_later(Effect& effect) const {
    const std::uint64_t oldest = tasks_->oldest().seq();
    std::size_t lag = 0;
    for (const scheduler::SinkStatus& status : tasks_->sinks()) {
        if (status.name == effect.sink) lag = status.lag;
    }
    if (!tasks_->dead_letters(effect.sink, std::nullopt, 1).letters.empty()) return;
    while (live_.count_from(effect.seq) > lag) {
        const std::uint64_t next = live_.event_from(effect.seq)->seq + 1;
        if (next > oldest) return;
        effect.seq = next;
    }
}

// Makes the listed sinks those that are delivered to.
inline void World::list_sinks() {
    const auto others =
        random_.chance(20) ? scheduler::Unlisted::forget : scheduler::Unlisted::keep;
    std::vector<scheduler::SinkOptions> options = sink_options();
    observe();  // after a start a cursor may be known only to be between two events
    std::vector<Effect> effects = listing_effects(others);
    const std::uint64_t failures = tasks_->stats().journal_failures;
    const Result result = call(
        [&] { sinks_ = std::make_unique<scheduler::Sinks>(*tasks_, std::move(options), others); });
    const bool failed = tasks_->stats().journal_failures != failures;
    resolve(failed || (result.ok && !effects.empty()), result, nullptr);
    std::set<std::string> there;
    for (const scheduler::SinkStatus& status : tasks_->sinks()) there.insert(status.name);
    for (Effect& effect : effects) {
        const bool drops = effect.kind == Effect::Kind::sink_drop;
        const bool done = (there.count(effect.sink) == 0) == drops;
        if (done && !drops) begin_later(effect);
        if (done) {
            log(effect);
        } else {
            log_ghost(effect, result);
        }
    }
    trace("the sinks are listed: " + (result.ok ? std::string("well") : result.what));
    if (!result.ok && !has_crashed()) {
        require(result.faulted || result.failed_before || disk_.is_full(),
                "sinks cannot be listed");
    }
    advance_bounds(result.ok && !effects.empty(), false, result);
    observe();
}

// Other sinks are listed from here on.
inline void World::relist() {
    sinks_.reset();
    for (auto& [name, effect] : unsettled_) {
        log_.push_back({std::move(effect), journal_failed_ ? Ghost::any : Ghost::power});
    }
    unsettled_.clear();
    for (const SinkPlan& plan : sink_plans_) {
        if (random_.chance(60)) continue;
        if (listed_.erase(plan.name) == 0) {
            listed_.insert(plan.name);
            if (live_.sinks.count(plan.name) != 0) {
                marks_.hit("a sink that was unlisted and listed again");
            }
        }
    }
    list_sinks();
}

// Checks what a sink is given, and decides what it makes of that.
inline scheduler::Outcome World::on_delivery(const std::string& name,
                                             const scheduler::Delivery& delivery) {
    if (!said_.empty() || has_crashed()) return scheduler::Outcome::failed("gone");
    try {
        if (running_) resolve_all(result_so_far());
        observe();
        const ModelSink& sink = live_.sinks.at(name);
        require(sink.state == SinkState::active, "a sink that is held back was given an event");
        Effect effect;
        effect.at = now();
        effect.sink = name;
        effect.seq = delivery.event.seq;
        effect.ids.push_back(delivery.event.id);
        effect.attempts = delivery.attempt;
        effect.moves = !delivery.again;
        if (delivery.again) {
            const auto first = std::find_if(sink.dead.begin(), sink.dead.end(),
                                            [](const auto& one) { return one.second.again; });
            require(first != sink.dead.end(), "a sink was given a letter that is not to be");
            require(first->first == delivery.event.seq, "a sink was given another dead letter");
            require(first->second.attempts + 1 == delivery.attempt, "it is another attempt");
        } else {
            const ModelEvent* const next = live_.event_from(sink.seq, {{}, sink.topics});
            if (!sink.topics.empty()) marks_.hit("an event that a sink's topics have chosen");
            require(next, "a sink was given an event that there is not");
            const std::string wrong = event_difference(live_, *next, delivery.event);
            if (!wrong.empty()) fail("sink " + name + ": " + wrong);
            require(sink.attempts + 1 == delivery.attempt, "it is another attempt of a sink");
        }
        return decide(name, std::move(effect));
    } catch (const std::exception& error) {
        said_ = error.what();
        return scheduler::Outcome::failed("the simulation has found something");
    }
}

inline scheduler::Outcome World::decide(const std::string& name, Effect effect) {
    const std::uint64_t chance = random_.below(100);
    scheduler::Outcome outcome;
    effect.kind = Effect::Kind::sink_take;
    if (chance >= 98) {
        outcome = scheduler::Outcome::disabled("it wants no more");
        effect.kind = Effect::Kind::sink_set;
        effect.state = SinkState::disabled;
        marks_.hit("a sink that was disabled");
    } else if (chance >= 75) {
        outcome = scheduler::Outcome::failed("it does not like it");
        const bool last = !effect.moves || effect.attempts > sink_plan(name).retries;
        effect.kind = last ? Effect::Kind::sink_letter : Effect::Kind::sink_attempt;
        if (last) marks_.hit("a dead letter");
    } else if (!effect.moves) {
        effect.letters.push_back(effect.seq);
        marks_.hit("a dead letter redelivered");
    }
    unsettled_[name] = std::move(effect);
    return outcome;
}

// Whether what a sink made of an event is remembered.
inline bool World::is_settled(const Effect& effect, const scheduler::SinkStatus& status) const {
    const auto letters = [&] {
        return tasks_->dead_letters(effect.sink, std::nullopt, all_of_them).letters;
    };
    const auto is_it = [&effect](const scheduler::DeadLetter& letter) {
        return letter.event.seq == effect.seq;
    };
    if (effect.kind == Effect::Kind::sink_set) return status.state == effect.state;
    if (effect.kind == Effect::Kind::sink_attempt) return status.attempts == effect.attempts;
    const auto all = letters();
    const auto letter = std::find_if(all.begin(), all.end(), is_it);
    if (effect.kind == Effect::Kind::sink_letter) {
        // Where few letters are kept it may be gone already, and the cursor tells.
        if (letter == all.end())
            return effect.moves && status.lag <= live_.count_from(effect.seq + 1);
        return letter->attempts == effect.attempts && !letter->redelivering;
    }
    if (!effect.letters.empty()) return letter == all.end();
    return status.lag <= live_.count_from(effect.seq + 1) && letter == all.end();
}

inline void World::observe_sinks() {
    for (const scheduler::SinkStatus& status : tasks_->sinks()) {
        if (live_.sinks.count(status.name) == 0) continue;
        const auto unsettled = unsettled_.find(status.name);
        if (unsettled != unsettled_.end() && is_settled(unsettled->second, status)) {
            unsettled->second.at = now();  // its record was made now, if not at once
            log(std::move(unsettled->second));
            unsettled_.erase(unsettled);
        }
        ModelSink& sink = live_.sinks.at(status.name);
        std::size_t lag = live_.count_from(sink.seq);
        for (; status.lag < lag; --lag) {  // what its topics do not choose it has passed over
            const ModelEvent* const next = live_.event_from(sink.seq);
            if (sink.topics.empty() || sink.wants(*next)) break;
            sink.move(next->seq + 1);
        }
        if (status.lag < lag) pass_over(status.name, status);
    }
}

// A sink was too far behind: what it has lost are dead letters, the newest of them at least.
inline void World::pass_over(const std::string& name, const scheduler::SinkStatus& status) {
    const ModelSink& sink = live_.sinks.at(name);
    const std::size_t lag = live_.count_from(sink.seq);
    require(lag > plan_.options.sink_backlog, "a sink was passed over without need");
    Effect effect;
    effect.kind = Effect::Kind::sink_pass;
    effect.at = now();
    effect.sink = name;
    effect.seq = sink.seq;
    // What its topics do not choose behind the last of them it has only passed over, as it does
    // without a record.
    std::uint64_t seq = sink.seq;
    for (std::size_t passed = 0; passed < lag - status.lag; ++passed) {
        const ModelEvent* const next = live_.event_from(seq);
        seq = next->seq + 1;
        if (has_topic(sink.topics, next->task)) effect.seq = seq;
    }
    marks_.hit("an overflow of a sink");
    log(std::move(effect));
    live_.sinks.at(name).move(seq);
}

// One change of a sink that is stored before the call returns.
inline void World::change_sink(const std::vector<Effect>& effects,
                               const std::function<void()>& made) {
    const std::uint64_t failures = tasks_->stats().journal_failures;
    const Result result = call(made);
    resolve(result.ok || tasks_->stats().journal_failures != failures, result, nullptr);
    for (const Effect& effect : effects) {
        if (result.ok) {
            log(effect);
        } else {
            log_ghost(effect, result);
        }
    }
    if (!result.ok && !has_crashed()) {
        require(result.faulted || result.failed_before || disk_.is_full(),
                "a sink cannot be changed");
    }
    advance_bounds(result.ok && !effects.empty(), false, result);
    observe();
}

inline void World::set_sink_state() {
    if (!sinks_ || live_.sinks.empty()) return;
    auto at = live_.sinks.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(live_.sinks.size())));
    const std::string name = at->first;
    if (listed_.count(name) == 0 && random_.chance(50)) return forget_unlisted(name);
    Effect effect;
    effect.kind = Effect::Kind::sink_set;
    effect.at = now();
    effect.sink = name;
    effect.seq = at->second.seq;
    const bool active = random_.chance(65);
    effect.state = active ? SinkState::active : SinkState::paused;
    const bool nothing = !active && at->second.state == SinkState::disabled;
    if (nothing) return;
    trace("sink " + name + (active ? " is resumed" : " is paused"));
    change_sink({effect}, [&] { active ? tasks_->resume_sink(name) : tasks_->pause_sink(name); });
}

inline void World::forget_unlisted(const std::string& name) {
    Effect effect;
    effect.kind = Effect::Kind::sink_drop;
    effect.at = now();
    effect.sink = name;
    change_sink({effect}, [&] { tasks_->forget_sink(name); });
}

inline void World::redeliver() {
    if (!sinks_ || live_.sinks.empty()) return;
    auto at = live_.sinks.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(live_.sinks.size())));
    const std::string name = at->first;
    if (at->second.dead.empty()) return;
    Effect effect;
    effect.kind = Effect::Kind::sink_again;
    effect.at = now();
    effect.sink = name;
    std::optional<TaskId> one;
    if (random_.chance(50)) {
        one = at->second.dead.begin()->second.id;
        for (const auto& [seq, letter] : at->second.dead) {
            if (letter.id == *one) effect.letters.push_back(seq);
        }
    } else {
        for (const auto& [seq, letter] : at->second.dead) effect.letters.push_back(seq);
    }
    trace("sink " + name + " gets dead letters again");
    change_sink({effect}, [&] { (void)tasks_->redeliver(name, one); });
}

}  // namespace sim

#endif  // TESTS_SIM_WORLD_READERS_HPP
