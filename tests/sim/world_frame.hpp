// SPDX-License-Identifier: MIT
//
// How the world runs: one act after another, each call of the scheduler watched.

#ifndef TESTS_SIM_WORLD_FRAME_HPP
#define TESTS_SIM_WORLD_FRAME_HPP

#include "world.hpp"

namespace sim {

inline World::World(std::uint64_t seed, Marks& marks, bool traced, std::chrono::hours brownouts)
    : marks_(marks),
      trace_(traced),
      random_(seed),
      plan_(random_, brownouts),
      clock_(scheduler::parse_time("2026-03-01T12:00:00Z").value()),
      disk_(random_) {
    plan_.options.now = clock_.source();
    plan_.options.log = [this](const scheduler::LogRecord& record) {
        const Memory::Pause pause;
        last_log_ = record.text;
        if (trace_) trace("log: " + record.text);
    };
    if (plan_.tight) disk_.largest_reserve = 400'000;
    if (plan_.disk > 0) disk_.resize(plan_.disk);
    base_.max_dead = live_.max_dead = plan_.options.max_dead;
    latest_ = now();
    if (!plan_.sinks) return;
    for (const char* name : {"alpha", "beta", "gamma"}) {
        sink_plans_.push_back(
            {name, static_cast<std::size_t>(random_.below(3)), random_.chance(50), {}});
        if (random_.chance(40)) sink_plans_.back().topics = draw_topics();
        if (random_.chance(70)) listed_.insert(name);
    }
}

inline World::~World() {
    disk_.end_process();
    sinks_.reset();
    tickets_.clear();
    bulks_.clear();
    open_.clear();
    readers_.clear();
    tasks_.reset();
}

inline void World::trace(const std::string& line) const {
    if (!trace_) return;
    const std::string text = scheduler::format_time(now()) + ' ' + line + '\n';
    std::fwrite(text.data(), 1, text.size(), stderr);
}

inline void World::fail(const std::string& what) const {
    std::string text = what;
    if (!last_log_.empty()) text += " (the log's last line: " + last_log_ + ")";
    throw Failure(text);
}

inline void World::run() {
    open();
    const auto is_over = [this] {
        return plan_.has_brownouts() ? simulated_ >= plan_.brownouts : operations_ >= plan_.steps;
    };
    while (!is_over()) step();
    mend_disk();
    restart(true, false);
    check_all();
}

inline void World::step() {
    ++operations_;
    act(plan_.draw(random_));
    if (has_crashed()) restart(false, random_.chance(40));
    if (operations_ % 64 == 0) check_all();
}

// Makes a call of the scheduler, which may fail by whatever was armed for it.
template <class Call>
World::Result World::call(Call made) {
    Result result;
    const std::uint64_t disk_before = disk_.failures();
    const std::uint64_t memory_before = Memory::failures();
    failures_at_call_ = disk_before;
    result.failed_before = journal_failed_;
    failed_at_call_ = journal_failed_;
    logged_at_call_ = log_.size();
    memory_at_call_ = memory_before;
    const bool was_armed = std::exchange(memory_armed_, false);
    if (was_armed) Memory::fail(random_.between(1, 40), random_.chance(50) ? 1 : 1'000'000);
    try {
        made();
        Memory::work();
        result.ok = true;
    } catch (const Error& error) {
        Memory::work();
        result.code = error.code();
        result.what = error.what();
    } catch (const std::bad_alloc&) {
        Memory::work();
        result.what = "out of memory";
    }
    if (tasks_) journal_failed_ = tasks_->stats().journal_failed;
    result.memory = Memory::failures() != memory_before;
    result.faulted = result.memory || disk_.failures() != disk_before;
    if (!said_.empty()) throw Failure(said_);
    return result;
}

// How the call that is being made stands, for whoever is called back by it.
inline World::Result World::result_so_far() const {
    Result result;
    result.failed_before = failed_at_call_;
    result.memory = Memory::failures() != memory_at_call_;
    result.faulted = result.memory || disk_.failures() != failures_at_call_;
    return result;
}

inline void World::log(Effect effect) {
    if (effect.kind != Effect::Kind::trim && effect.at >= latest_) stamp_known_ = true;
    if (effect.kind == Effect::Kind::resume && live_.paused) resumed_at_ = effect.at;
    live_.apply(effect);
    if (!effect.key.empty()) unsure_.erase(effect.key);
    const bool floats = effect.kind == Effect::Kind::sink_take ||
                        effect.kind == Effect::Kind::sink_attempt ||
                        effect.kind == Effect::Kind::sink_pass;
    log_.push_back({std::move(effect), Ghost::none, floats, false});
}

// A change that was refused has left no trace; one whose outcome nobody knows, or that was
// never answered, may have.
inline void World::log_ghost(Effect effect, const Result& result) {
    const bool is_known = result.code && *result.code != Errc::outcome_unknown && !has_crashed();
    const bool failed = journal_failed_ || tasks_->stats().journal_failed;
    if (!has_crashed() && !result.faulted && !failed) return;
    if (is_known && plan_.syncs_answers()) return;
    const bool any = has_crashed() || (failed && !is_known);
    log_.push_back({std::move(effect), any ? Ghost::any : Ghost::power});
}

inline void World::act(Act what) {
    if (what <= last_of_clients) return change_something(what);
    if (what <= last_of_time_and_readers) return go_on(what);
    if (what <= last_of_faults) return make_fail(what);
    change_sinks(what);
}

inline void World::change_something(Act what) {
    switch (what) {
        case Act::schedule:
            return schedule(1, true);
        case Act::batch:
            return schedule(plan_.large ? random_.between(500, 3'000) : random_.between(2, 20),
                            random_.chance(70));
        case Act::begin_schedule:
            return schedule(1, false);
        case Act::repeat_key:
            return repeat_key();
        case Act::cancel:
            return cancel(true);
        case Act::begin_cancel:
            return cancel(false);
        case Act::change:
            return change(true);
        case Act::begin_change:
            return change(false);
        case Act::put:
            return put(true);
        case Act::begin_put:
            return put(false);
        case Act::cancel_range:
            return cancel_range(true);
        case Act::begin_cancel_range:
            return cancel_range(false);
        case Act::forget:
            return forget();
        case Act::pause:
            return pause_or_resume(Effect::Kind::pause);
        case Act::resume:
            return pause_or_resume(Effect::Kind::resume);
        case Act::wait:
            if (const BegunRef ticket = draw_ticket()) wait_for(ticket);
            return;
        case Act::try_store:
            return try_store();
        case Act::drop_ticket:
            return drop_ticket();
        default:
            return;
    }
}

inline void World::go_on(Act what) {
    switch (what) {
        case Act::run:
            return run_due();
        case Act::advance:
            return draw_advance();
        case Act::skip:
            return advance(std::chrono::hours(random_.between(1, 24 * 20)));
        case Act::step_back:
            return step_back();
        case Act::subscribe:
            return subscribe();
        case Act::unsubscribe:
            return unsubscribe();
        default:
            return;
    }
}

inline void World::change_sinks(Act what) {
    switch (what) {
        case Act::sink_state:
            return set_sink_state();
        case Act::redeliver:
            return redeliver();
        case Act::relist:
            return relist();
        default:
            return;
    }
}

inline void World::make_fail(Act what) {
    switch (what) {
        case Act::restart:
            return restart(true, random_.chance(30));
        case Act::crash:
            return restart(false, false);
        case Act::crash_inside:
            disk_.crash_in = random_.between(1, 30);
            return;
        case Act::lose_power:
            return restart(false, true);
        case Act::write_back:
            disk_.write_back();
            if (owed_ || journal_failed_) return;
            kept_by_power_ = std::max(kept_by_power_, kept_by_crash_);
            return absorb();
        case Act::break_disk:
            return break_disk();
        case Act::mend_disk:
            return mend_disk();
        case Act::fill_disk:
            return disk_.fill();
        case Act::free_disk:
            if (disk_.is_full()) marks_.hit("a disk that was full, and then free");
            return disk_.empty();
        case Act::fail_memory:
            memory_armed_ = true;
            return;
        default:
            return;
    }
}

inline void World::break_disk() {
    Disk::Faults& faults = disk_.faults;
    faults = {};
    switch (plan_.fault_kind) {
        case 0:
            faults.rate = 5;
            break;
        case 1:
            faults.rate = 50;
            faults.syncs_only = true;
            break;
        case 2:
            faults.all = true;
            break;
        default:
            faults.shorten = true;
            faults.rate = 1;
    }
    trace("the disk breaks");
}

inline void World::mend_disk() {
    disk_.faults = {};
    disk_.empty();
    memory_armed_ = false;
}

// ---- Time --------------------------------------------------------------------

inline void World::advance(milliseconds by) {
    clock_.advance(by);
    steady_time += by;
    simulated_ += by;
    latest_ = std::max(latest_, now());
    tasks_->clock_changed();
    trace("the clock goes on by " + std::to_string(by.count()) + " ms");
    if (random_.chance(60)) run_due();
}

inline void World::draw_advance() {
    if (plan_.has_brownouts()) return advance(milliseconds(random_.between(1, 10'000)));
    // Often to just when there is something to do, or right before that.
    const auto wake = tasks_->next_wake();
    if (wake && *wake > now() && random_.chance(50)) {
        return advance(std::max(*wake - now() - milliseconds(random_.below(2)), milliseconds(1)));
    }
    const std::uint64_t kind = random_.below(100);
    if (kind < 50) return advance(milliseconds(random_.between(1, 3'000)));
    if (kind < 85) return advance(milliseconds(random_.between(1'000, 600'000)));
    advance(milliseconds(random_.between(60'000, 86'400'000)));
}

// Somebody sets the wall clock back; the steady one knows nothing of that.
inline void World::step_back() {
    const milliseconds by(random_.chance(50) ? random_.between(1, 8'000)
                                             : random_.between(10'000, 7'200'000));
    clock_.advance(-by);
    tasks_->clock_changed();
    marks_.hit("a clock that stepped back");
    trace("the clock steps back by " + std::to_string(by.count()) + " ms");
}

// A clock that is behind the journal is trusted when it has passed that.
inline void World::update_trust() {
    if (trusted_ || (stamp_known_ && now() < live_.stamp)) return;
    if (!stamp_known_ && !tasks_->stats().clock_trusted) return;
    trusted_ = true;
    marks_.hit("a clock that caught up");
}

}  // namespace sim

#endif  // TESTS_SIM_WORLD_FRAME_HPP
