// SPDX-License-Identifier: MIT
//
// What must be true of a cluster, and how it comes to rest in the end.

#ifndef TESTS_SIM_CLUSTER_ORACLE_HPP
#define TESTS_SIM_CLUSTER_ORACLE_HPP

#include "cluster.hpp"

namespace sim {

// The number that a request has put into its message, or its reason; 0: there is none.
inline std::uint64_t number_in(std::string_view text, std::string_view before) {
    const std::size_t at = text.find(before);
    if (at == std::string_view::npos) return 0;
    return std::strtoull(std::string(text.substr(at + before.size(), 20)).c_str(), nullptr, 10);
}

inline Cluster::Node& Cluster::node_of(const std::string& name) {
    return **std::find_if(nodes_.begin(), nodes_.end(),
                          [&name](const auto& node) { return node->name == name; });
}

// The tasks of which a change is on its way at a node; `any`: a bulk cancel is, too.
inline std::set<TaskId> Cluster::busy(const Node& node, bool& any) const {
    std::set<TaskId> held;
    for (const auto& begun : node.begun) {
        any = any || begun->request.is_bulk;
        held.insert(begun->request.ids.begin(), begun->request.ids.end());
    }
    return held;
}

// ---- What is stored --------------------------------------------------------------

inline void Cluster::look(const Effect& effect, const Truth::Row& row) {
    const auto owner = owners_.emplace(row.epoch, row.node).first;
    require(owner->second == row.node, "an epoch has two owners");
    require(owners_.rbegin()->first == row.epoch, "a group of an old epoch is stored");
    const auto see = [this](std::uint64_t number) {
        seen_.insert(number);
        require(refused_.count(number) == 0,
                "m" + std::to_string(number) + " was refused, and is stored");
    };
    const Model& model = head_.model();
    switch (effect.kind) {
        case Effect::Kind::schedule:
        case Effect::Kind::change:
            for (const ModelTask& task : effect.tasks) {
                see(number_in(task.payload, "\"message\":\"m"));
                if (effect.kind == Effect::Kind::schedule) look_at_new(task);
            }
            return;
        case Effect::Kind::pause:
            return see(number_in(effect.reason, "p"));
        case Effect::Kind::cancel:
            for (const TaskId id : effect.ids) {
                const auto task = model.pending.find(id);
                if (task == model.pending.end()) {
                    fail("task " + id.str() + " is cancelled, which is not pending");
                }
                require(is_claimed(id, task->second.due),
                        "task " + id.str() + " is cancelled, which nobody has asked for");
            }
            if (effect.ids.size() > 4'096) marks_.hit("a bulk cancel stored in several groups");
            return;
        case Effect::Kind::miss:
            for (const TaskId id : effect.ids) {
                require(model.pending.count(id) != 0, "a task is missed that is not pending");
            }
            return;
        case Effect::Kind::emit:
            return look_at_emission(effect, row);
        default:
            return;
    }
}

inline void Cluster::look_at_new(const ModelTask& task) {
    require(last_id_ < task.id, "task " + task.id.str() + " comes behind " + last_id_.str());
    last_id_ = task.id;
}

// All that is due goes in order, once, never early, and not while there is a pause.
inline void Cluster::look_at_emission(const Effect& effect, const Truth::Row& row) {
    const Model& model = head_.model();
    require(!model.paused, "something is emitted while there is a pause");
    require(effect.seq == model.next_seq, "an event has a place that is not the next one");
    std::pair<TimePoint, TaskId> last{TimePoint::min(), TaskId()};
    for (const TaskId id : effect.ids) {
        const auto task = model.pending.find(id);
        if (task == model.pending.end()) {
            fail("task " + id.str() + " is emitted, which is not pending" +
                 (head_.cancelled().count(id) != 0 ? " but cancelled" : ""));
        }
        require(task->second.due <= effect.at, "task " + id.str() + " is emitted early");
        const std::pair<TimePoint, TaskId> place{task->second.due, id};
        require(last < place, "task " + id.str() + " is emitted behind its place");
        last = place;
    }
    bool any = false;
    std::set<TaskId> others = busy(node_of(row.node), any);
    if (any) return;
    others.insert(effect.ids.begin(), effect.ids.end());
    for (const auto& place : model.order) {
        if (last < place) break;
        const ModelTask& task = model.pending.at(place.second);
        const bool may_be_late = task.max_lateness || options_.max_lateness;
        if (others.count(place.second) == 0 && !may_be_late) {
            fail("task " + place.second.str() + " is due and was passed over");
        }
    }
}

// ---- What is shown ---------------------------------------------------------------

inline void Cluster::check_node(Node& node) {
    if (!node.tasks || node.is_behind) return;
    const Memory::Pause pause;
    node.truth.advance(*log_, log_->applied(node.name));
    const std::string wrong = difference(node.truth, Observed(*node.tasks));
    if (!wrong.empty()) {
        fail(node.name + ", at group " + std::to_string(node.truth.taken()) + " of " +
             std::to_string(head_.taken()) + ": " + wrong);
    }
}

inline std::string Cluster::difference(const Truth& truth, const Observed& observed) const {
    const Model& model = truth.model();
    std::string wrong = pending_difference(model, observed);
    if (!wrong.empty()) return wrong;
    if (!(observed.paused == model.paused)) return "it is paused, or not, for another reason";
    if (observed.newest != model.next_seq) return "another event would be the next one";
    const std::uint64_t first =
        observed.events.empty() ? observed.newest : observed.events.front().seq;
    std::size_t i = 0;
    for (const ModelEvent& event : model.events) {
        if (event.forgotten) continue;
        if (event.seq < first) {
            const bool is_old = event.at + options_.min_retention <= latest_;
            const bool are_enough =
                event.seq < truth.may_be_gone() || model.count_from(first) >= options_.history;
            if (is_old && are_enough) continue;
            return "event " + std::to_string(event.seq) + " was dropped before its time";
        }
        if (i == observed.events.size()) {
            return "event " + std::to_string(event.seq) + " is not there";
        }
        wrong = event_difference(model, event, observed.events[i++]);
        if (!wrong.empty()) return wrong;
    }
    if (i == observed.events.size()) return "";
    return "event " + std::to_string(observed.events[i].seq) + " should not be there";
}

// Events that a sink has taken may be gone from the history, of one sooner than of another.
inline std::string Cluster::sinks_difference(const Observed& a, const Observed& b) {
    if (a.sinks.size() != b.sinks.size()) return "there are other sinks";
    for (const auto& [name, sink] : a.sinks) {
        const auto other = b.sinks.find(name);
        if (other == b.sinks.end()) return "there is no sink " + name;
        const scheduler::SinkStatus& status = other->second;
        if (sink.lag != status.lag || sink.attempts != status.attempts) {
            return "sink " + name + " is at another event";
        }
        const auto& letters = a.letters.at(name);
        const auto& others = b.letters.at(name);
        if (letters.size() != others.size()) {
            return "sink " + name + " has " + std::to_string(letters.size()) +
                   " dead letters, and also " + std::to_string(others.size());
        }
        for (std::size_t i = 0; i < letters.size(); ++i) {
            if (letters[i].event.seq != others[i].event.seq ||
                letters[i].attempts != others[i].attempts ||
                letters[i].redelivering != others[i].redelivering) {
                return "sink " + name + " has other dead letters";
            }
        }
    }
    return "";
}

inline void Cluster::check_all() {
    advance_head();
    for (const auto& node : nodes_) check_node(*node);
}

// Whoever reads all that is kept has what there is.
inline void Cluster::probe(bool is_at_rest) {
    const Memory::Pause pause;
    log_->stand("probe", false);
    scheduler::Options options = options_;
    options.now = [this] { return latest_; };
    options.make_journal = [this] { return log_->open("probe", support::Telling::caller); };
    const scheduler::Scheduler tasks(options);
    const Observed observed(tasks);
    const std::string wrong = difference(head_, observed);
    require(wrong.empty(), "who reads everything: " + wrong);
    if (!is_at_rest || !has_sinks_) return;
    for (const auto& node : nodes_) {
        const std::string other = sinks_difference(observed, Observed(*node->tasks));
        require(other.empty(), "who reads everything, and " + node->name + ": " + other);
    }
}

// ---- The end ---------------------------------------------------------------------

// Nothing fails any more, and time goes on.
inline void Cluster::heal() {
    trace("everything is mended");
    memory_armed_ = false;
    is_away_ = false;
    log_->away(support::Away::no);
    log_->arrive();
    for (const auto& node : nodes_) {
        log_->fail(node->name, support::Fault::none);
        log_->pause(node->name, node->is_paused = false);
        if (node->tasks && has_sinks_ && !node->sinks) end(*node, true);
        if (!node->tasks) open(*node);
        while (!node->begun.empty()) wait_for(*node, node->begun.back());
    }
    int round = 0;
    for (std::string what = unrest(); !what.empty(); what = unrest()) {
        require(++round < 200, "the cluster does not come to rest: " + what);
        for (const auto& node : nodes_) tell(*node, support::SharedLog::all);
        for (const auto& node : nodes_) {
            if (log_->is_owner(node->name)) {
                if (node->tasks->paused()) node->tasks->resume();
                for (const scheduler::SinkStatus& sink : node->tasks->sinks()) {
                    if (sink.state == SinkState::paused) node->tasks->resume_sink(sink.name);
                }
            }
            run_due(*node);
        }
        advance(std::chrono::seconds(6));
    }
}

inline std::string Cluster::unrest() {
    advance_head();
    std::size_t owners = 0;
    for (const auto& node : nodes_) {
        owners += log_->is_owner(node->name);
        if (log_->applied(node->name) != log_->stored()) return node->name + " is behind";
        if (node->is_behind) return node->name + " has not taken what it was told";
        if (!node->tasks->stats().clock_trusted) return node->name + " does not trust its clock";
        for (const scheduler::SinkStatus& sink : node->tasks->sinks()) {
            if (sink.lag > 0) return node->name + ": sink " + sink.name + " is behind";
            if (sink.state == SinkState::paused) return node->name + ": a sink is paused";
            for (const auto& letter : node->tasks->dead_letters(sink.name).letters) {
                if (letter.redelivering) return node->name + ": a letter is to be redelivered";
            }
        }
    }
    const auto& order = head_.model().order;
    const bool is_due = !order.empty() && order.begin()->first < now_ - std::chrono::seconds(1);
    if (owners != 1) return std::to_string(owners) + " nodes own";
    if (is_due) return "task " + order.begin()->second.str() + " is due";
    return head_.model().paused ? "there is a pause" : "";
}

inline void Cluster::check_end() {
    check_all();
    probe(true);
    for (const auto& [name, first] : head_.sinks()) {
        std::set<std::uint64_t> has = taken_[name];
        for (const auto& letter :
             nodes_.front()->tasks->dead_letters(name, std::nullopt, all_of_them).letters) {
            has.insert(letter.event.seq);
        }
        for (const ModelEvent& event : head_.model().events) {
            if (event.seq < first || event.forgotten || has.count(event.seq) != 0) continue;
            fail("sink " + name + " has never been given event " + std::to_string(event.seq));
        }
    }
}

// ---- Time, readers and sinks -------------------------------------------------------

inline void Cluster::go_on(Deed deed) {
    Node& node = draw_node();
    switch (deed) {
        case Deed::run:
            return run_due(node);
        case Deed::tell:
            return tell(node, support::SharedLog::all);
        case Deed::tell_some:
            return tell(node, random_.between(1, 3));
        case Deed::advance:
            return advance(milliseconds(random_.chance(70) ? random_.between(1, 2'000)
                                                           : random_.between(1'000, 60'000)));
        case Deed::skip:
            return advance(std::chrono::hours(random_.between(1, 24)));
        case Deed::skew:
            node.skew = milliseconds(random_.between(0, 800)) - milliseconds(400);
            return advance(milliseconds(1));
        case Deed::move_reader:
            return move_reader();
        default:
            return;
    }
}

inline void Cluster::advance(milliseconds by) {
    now_ += by;
    simulated_ += by;
    steady_time += by;
    for (const auto& node : nodes_) {
        node->clock.set(now_ + node->skew);
        latest_ = std::max(latest_, node->clock.now());
        if (node->tasks) node->tasks->clock_changed();
    }
}

inline void Cluster::run_due(Node& node) {
    if (!node.tasks) return;
    const std::uint64_t before = head_.model().next_seq;
    std::size_t emitted = 0;
    trace(node.name + " runs what is due");
    const Result result = call(node, [&] { emitted = node.tasks->run_due(); });
    require(result.ok || result.memory, "run_due() has thrown " + result.what);
    const std::uint64_t stored = head_.model().next_seq - before;
    require(!result.ok || emitted <= stored, "more was emitted than is stored");
    if (!result.was_well || !is_well(node) || result.memory) return;
    require(emitted == stored, "run_due() says another number of emissions");
    bool any = false;
    const std::set<TaskId> held = busy(node, any);
    if (any || head_.model().paused) return;
    for (const auto& [due, id] : head_.model().order) {
        if (due > node.clock.now()) break;
        if (held.count(id) == 0) fail("task " + id.str() + " is due and was not emitted");
    }
}

inline void Cluster::tell(Node& node, std::size_t most) {
    if (!node.tasks || node.is_paused) return;
    const std::uint64_t before = log_->applied(node.name);
    const bool was_owner = log_->believes_to_be_owner(node.name);
    if (before < log_->gone() && !is_away_) marks_.hit("a node that had to read everything anew");
    const Result result = call(node, [&] { log_->pump(node.name, most); });
    require(result.ok || result.memory, "what is told is not taken: " + result.what);
    const std::uint64_t after = log_->applied(node.name);
    if (result.memory) {
        node.is_behind = true;
    } else if (after > before || after == log_->stored()) {
        node.is_behind = false;
    }
    if (!was_owner && log_->believes_to_be_owner(node.name)) {
        trace(node.name + " is the owner");
        marks_.hit("a node that took over");
    }
}

inline void Cluster::start(Reader& reader, Node& node) {
    reader.node = &node;
    reader.subscription = node.tasks->subscribe(
        [this, &reader](const Event& event) {
            const Memory::Pause pause;
            try {
                on_read(reader, event);
            } catch (const std::exception& error) {
                if (said_.empty()) said_ = error.what();
            }
        },
        Cursor(reader.next));
}

// A client goes to another node when that has all that it has seen.
inline void Cluster::move_reader() {
    if (readers_.size() < 2) readers_.push_back(std::make_unique<Reader>());
    Reader& reader = *readers_[random_.below(readers_.size())];
    Node& node = draw_node();
    if (!node.tasks || node.is_behind || node.tasks->newest().seq() < reader.next) return;
    reader.subscription.stop();
    if (reader.node && reader.node != &node) marks_.hit("a reader that went to another node");
    start(reader, node);
}

inline void Cluster::on_read(Reader& reader, const Event& event) {
    Node& node = *reader.node;
    node.truth.advance(*log_, log_->applied(node.name));
    const std::uint64_t from = std::max(reader.next, node.tasks->oldest().seq());
    const ModelEvent* const expected = node.truth.model().event_from(from);
    if (!expected) fail("a reader at " + node.name + " was given an event that there is not");
    const std::string wrong = event_difference(node.truth.model(), *expected, event);
    if (!wrong.empty()) fail("a reader at " + node.name + ": " + wrong);
    reader.next = event.seq + 1;
}

inline scheduler::Outcome Cluster::on_delivery(const Node& node,
                                               const scheduler::Delivery& delivery) {
    try {
        advance_head();
        require(log_->believes_to_be_owner(node.name), node.name + " delivers what it follows");
        const auto at = head_.model().at_or_after(delivery.event.seq);
        require(at != head_.model().events.end(), "a sink is given an event that there is not");
        const std::string wrong = event_difference(head_.model(), *at, delivery.event);
        if (!wrong.empty()) fail("sink " + delivery.sink + ": " + wrong);
        std::set<std::uint64_t>& taken = taken_[delivery.sink];
        if (random_.chance(15)) return scheduler::Outcome::failed("it does not like it");
        if (!taken.insert(delivery.event.seq).second) {
            marks_.hit("an event that was delivered again by the next owner");
        }
        // Another may take over before it can be stored that this is taken.
        if (random_.chance(3)) {
            ++troubles_;
            log_->take(draw_node().name);
        }
    } catch (const std::exception& error) {
        if (said_.empty()) said_ = error.what();
    }
    return {};
}

}  // namespace sim

#endif  // TESTS_SIM_CLUSTER_ORACLE_HPP
