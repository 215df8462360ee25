// SPDX-License-Identifier: MIT
//
// What the groups of records come to that are stored in a shared log, one by one: the model that
// every node of a cluster must stand as.

#ifndef TESTS_SIM_TRUTH_HPP
#define TESTS_SIM_TRUTH_HPP

#include "model.hpp"

#include "../shared_journal.hpp"

namespace sim {

class Truth {
public:
    explicit Truth(std::size_t history) : history_(history) {}
    using Row = support::SharedLog::Row;
    // Called with what a record says, before that is done; null: nobody looks.
    using Look = std::function<void(const Effect& effect, const Row& row)>;

    // Takes all groups up to the one with this number.
    void advance(const support::SharedLog& log, std::uint64_t number, const Look& look = nullptr) {
        if (number <= taken_) return;
        for (const Row& row : log.rows(taken_ + 1)) {
            if (row.number > number) break;
            take(row, look);
        }
    }
    const Model& model() const { return model_; }
    std::uint64_t taken() const { return taken_; }
    // Events before this seq may be gone: there were so many others once, before some of those were
    // forgotten.
    std::uint64_t may_be_gone() const { return may_be_gone_; }
    // Where each sink began.
    const std::map<std::string, std::uint64_t>& sinks() const { return sinks_; }
    // All that were ever cancelled.
    const std::set<TaskId>& cancelled() const { return cancelled_; }

private:
    void take(const Row& row, const Look& look);
    void take_record(scheduler::detail::Record record, const Row& row, const Look& look);
    std::vector<Effect> effects_of(const scheduler::detail::ScheduleRecord& record) const;
    Effect cancel_of(const scheduler::detail::CancelRecord& record, const Row& row);

    void count_events();

    const std::size_t history_;  // how many events are to be kept
    Model model_;
    std::uint64_t taken_ = 0;  // the number of the last group
    // The parts of a bulk cancel, which are nothing without its end; of one owner alone.
    std::uint64_t parts_epoch_ = 0;
    std::uint64_t parts_bulk_ = 0;
    std::vector<TaskId> parts_;
    std::uint64_t may_be_gone_ = 0;
    std::map<std::string, std::uint64_t> sinks_;
    std::set<TaskId> cancelled_;
};

inline void Truth::take(const Row& row, const Look& look) {
    support::for_each_line(row.lines, [&](std::string_view line) {
        take_record(scheduler::detail::read_record(line), row, look);
    });
    taken_ = row.number;
}

inline std::vector<Effect> Truth::effects_of(
    const scheduler::detail::ScheduleRecord& record) const {
    std::vector<Effect> effects;
    Effect added;
    if (!record.answer.empty()) added.key = record.answer.key();
    for (const scheduler::detail::TaskRef& task : record.tasks) {
        const scheduler::detail::Details details = task->details();
        ModelTask one{task->id,
                      task->due,
                      std::string(task->text()),
                      std::nullopt,
                      std::string(details.topic),
                      std::string(details.name)};
        if (details.max_lateness.count() > 0) one.max_lateness = details.max_lateness;
        if (model_.pending.count(one.id) == 0) {
            added.at = one.id.time();
            added.tasks.push_back(std::move(one));
            continue;
        }
        effects.emplace_back();
        effects.back().kind = Effect::Kind::change;
        effects.back().tasks.push_back(std::move(one));
    }
    if (!added.tasks.empty()) effects.push_back(std::move(added));
    return effects;
}

inline Effect Truth::cancel_of(const scheduler::detail::CancelRecord& record, const Row& row) {
    Effect effect;
    effect.kind = Effect::Kind::cancel;
    effect.at = record.at;
    effect.ids = record.ids;
    if (!record.bulk) return effect;
    effect.end = *record.bulk;
    if (parts_epoch_ == row.epoch && parts_bulk_ == *record.bulk) {
        effect.ids.insert(effect.ids.end(), parts_.begin(), parts_.end());
    }
    parts_.clear();
    return effect;
}

inline void Truth::take_record(scheduler::detail::Record record, const Row& row, const Look& look) {
    using namespace scheduler::detail;
    std::vector<Effect> effects;
    const auto add = [&effects](Effect::Kind kind, TimePoint at) -> Effect& {
        effects.emplace_back();
        effects.back().kind = kind;
        effects.back().at = at;
        return effects.back();
    };
    if (const auto* const scheduled = record.get_if<ScheduleRecord>()) {
        effects = effects_of(*scheduled);
    } else if (const auto* const emitted = record.get_if<EmitRecord>()) {
        Effect& effect = add(Effect::Kind::emit, emitted->at);
        effect.seq = emitted->seq;
        effect.ids = emitted->ids;
    } else if (const auto* const missed = record.get_if<MissRecord>()) {
        add(Effect::Kind::miss, missed->at).ids = missed->ids;
    } else if (const auto* const cancelled = record.get_if<CancelRecord>()) {
        effects.push_back(cancel_of(*cancelled, row));
    } else if (const auto* const part = record.get_if<PartRecord>()) {
        if (parts_epoch_ != row.epoch || parts_bulk_ != part->bulk) parts_.clear();
        parts_epoch_ = row.epoch;
        parts_bulk_ = part->bulk;
        parts_.insert(parts_.end(), part->ids.begin(), part->ids.end());
    } else if (const auto* const forgotten = record.get_if<ForgetRecord>()) {
        Effect& effect = add(Effect::Kind::forget, forgotten->at);
        effect.seq = forgotten->begin;
        effect.end = forgotten->end;
    } else if (const auto* const paused = record.get_if<PauseRecord>()) {
        add(Effect::Kind::pause, paused->at).reason = paused->reason.value_or("");
    } else if (const auto* const resumed = record.get_if<ResumeRecord>()) {
        add(Effect::Kind::resume, resumed->at);
    } else if (const auto* const sink = record.get_if<SinkRecord>()) {
        if (sink->seq) sinks_.emplace(sink->sink, *sink->seq);
    }
    for (const Effect& effect : effects) {
        if (look) look(effect, row);
        if (effect.kind == Effect::Kind::forget) count_events();
        model_.apply(effect);
        if (effect.kind == Effect::Kind::cancel) {
            cancelled_.insert(effect.ids.begin(), effect.ids.end());
        }
    }
}

inline void Truth::count_events() {
    std::size_t count = 0;
    for (auto at = model_.events.rbegin(); at != model_.events.rend(); ++at) {
        if (at->forgotten || ++count < history_) continue;
        may_be_gone_ = std::max(may_be_gone_, at->seq);
        return;
    }
}

}  // namespace sim

#endif  // TESTS_SIM_TRUTH_HPP
