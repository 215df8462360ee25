// SPDX-License-Identifier: MIT
//
// What clients ask the nodes of a cluster for, and what they are told.

#ifndef TESTS_SIM_CLUSTER_REQUESTS_HPP
#define TESTS_SIM_CLUSTER_REQUESTS_HPP

#include "cluster.hpp"

namespace sim {

inline void Cluster::ask(Deed deed, Node& node) {
    switch (deed) {
        case Deed::schedule:
            return schedule(node, 1, true);
        case Deed::batch:
            return schedule(node, large_ ? random_.between(1'000, 5'000) : random_.between(2, 20),
                            random_.chance(70));
        case Deed::begin_schedule:
            return schedule(node, 1, false);
        case Deed::repeat_key:
            return repeat_key(node);
        case Deed::cancel:
        case Deed::begin_cancel:
            return cancel(node, deed == Deed::cancel);
        case Deed::change:
        case Deed::begin_change:
            return change(node, deed == Deed::change);
        case Deed::put:
        case Deed::begin_put:
            return put(node, deed == Deed::put);
        case Deed::cancel_range:
        case Deed::begin_cancel_range:
            return cancel_range(node, deed == Deed::cancel_range);
        case Deed::wait:
            if (node.begun.empty()) return;
            return wait_for(node, node.begun[random_.below(node.begun.size())]);
        case Deed::drop_ticket: {
            if (node.begun.empty()) return;
            // It stays on its way, and nobody hears what becomes of it.
            node.begun[random_.below(node.begun.size())]->ticket.reset();
            return;
        }
        default:
            return change_others(deed, node);
    }
}

inline void Cluster::change_others(Deed deed, Node& node) {
    Request request;
    switch (deed) {
        case Deed::forget: {
            request.kind = Effect::Kind::forget;
            const std::uint64_t next = head_.model().next_seq;
            const std::uint64_t first = random_.below(next + 1);
            const scheduler::EventRange range{Cursor(first), Cursor(random_.between(first, next))};
            begin(node, request, true, [&] { return node.tasks->begin_forget(range); });
            return;
        }
        case Deed::pause: {
            request.kind = Effect::Kind::pause;
            request.numbers.push_back(++numbers_);
            const std::string reason = "p" + std::to_string(numbers_);
            begin(node, request, true, [&] { return node.tasks->begin_pause(reason); });
            return;
        }
        case Deed::resume:
            request.kind = Effect::Kind::resume;
            begin(node, request, true, [&] { return node.tasks->begin_resume(); });
            return;
        default:
            return set_sink(node);
    }
}

// ---- What is asked for ---------------------------------------------------------

inline std::string Cluster::new_message(Request& request) {
    request.numbers.push_back(++numbers_);
    const std::size_t size = random_.chance(10) ? random_.below(2'000) : random_.below(30);
    return "\"m" + std::to_string(numbers_) + ' ' + std::string(size, 'x') + '"';
}

inline TimePoint Cluster::draw_due(const Node& node) {
    const std::uint64_t kind = random_.below(100);
    if (kind < 20) return node.clock.now() - milliseconds(random_.below(2'000));
    if (kind < 80) return node.clock.now() + milliseconds(random_.below(5'000));
    return node.clock.now() + milliseconds(random_.below(600'000));
}

inline scheduler::NewTask Cluster::new_task(Request& request, const Node& node) {
    scheduler::NewTask task;
    task.due = draw_due(node);
    task.message = new_message(request);
    if (random_.chance(30)) task.topic = random_.chance(50) ? "orders/eu" : "mail";
    if (random_.chance(5)) task.max_lateness = std::chrono::seconds(random_.between(1, 60));
    return task;
}

inline std::optional<TaskId> Cluster::draw_pending(const Node& node) {
    const Model& model = random_.chance(70) ? head_.model() : node.truth.model();
    if (model.pending.empty()) return std::nullopt;
    auto at = model.pending.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(
                         random_.below(std::min<std::size_t>(model.pending.size(), 200))));
    return at->first;
}

inline void Cluster::schedule(Node& node, std::size_t count, bool waits) {
    Request request;
    std::vector<scheduler::NewTask> tasks;
    while (tasks.size() < count) tasks.push_back(new_task(request, node));
    const bool has_key = random_.chance(20);
    const std::string key = has_key ? "k" + std::to_string(numbers_) : "";
    const auto begun = begin(node, request, waits, [&] { return node.tasks->submit(tasks, key); });
    if (!begun || !has_key) return;
    const bool is_refused = refused_.count(begun->request.numbers.front()) != 0;
    if (!is_refused) keyed_[key] = {tasks, begun};
}

// A request with a key is made again, of any node: it is the same one, for as long as its key is
// known.
inline void Cluster::repeat_key(Node& node) {
    if (keyed_.empty()) return;
    auto at = keyed_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(keyed_.size())));
    const std::vector<scheduler::NewTask> tasks = at->second.first;
    const std::shared_ptr<Begun> first = at->second.second;
    if (refused_.count(first->request.numbers.front()) != 0) {
        keyed_.erase(at);
        return;
    }
    first->request.numbers.clear();  // which of the two is stored with them, if one is, is not told
    const std::string key = at->first;
    const bool is_known = head_.model().knows(key, latest_);
    bool repeats = false;
    const Result result = call(node, [&] {
        scheduler::Ticket ticket = node.tasks->submit(tasks, key);
        const std::vector<TaskId> ids = ticket.ids();
        repeats = ticket.repeats();
        ticket.wait();
        const Memory::Pause pause;
        advance_head();
        if (!is_known) return;
        require(ticket.repeats() && ids == head_.model().keys.at(key).ids,
                "a key that is known is another request");
        marks_.hit("a key repeated on another node than at first");
    });
    judge(result);
    require(!result.ok || result.was_owner || repeats, node.name + " changes what it follows");
    // Whoever asks again and again may have more than one of the same, if a day has passed.
    keyed_.erase(at);
}

inline void Cluster::cancel(Node& node, bool waits) {
    const auto id = draw_pending(node);
    if (!id) return;
    Request request;
    request.kind = Effect::Kind::cancel;
    request.ids = {*id};
    begin(node, request, waits, [&] { return node.tasks->begin_cancel(*id); });
}

inline void Cluster::change(Node& node, bool waits) {
    const auto id = draw_pending(node);
    if (!id) return;
    Request request;
    request.kind = Effect::Kind::change;
    request.ids = {*id};
    scheduler::TaskChange change;
    change.message = new_message(request);
    if (random_.chance(60)) change.due = draw_due(node);
    begin(node, request, waits, [&] { return node.tasks->begin_change(*id, change); });
}

inline void Cluster::put(Node& node, bool waits) {
    Request request;
    request.kind = Effect::Kind::change;
    const std::string name = "job" + std::to_string(random_.below(4));
    const scheduler::NewTask task = new_task(request, node);
    begin(node, request, waits, [&] { return node.tasks->begin_put(name, task); });
}

inline void Cluster::cancel_range(Node& node, bool waits) {
    Request request;
    request.kind = Effect::Kind::cancel;
    request.is_bulk = true;
    const bool all = random_.chance(large_ ? 70 : 20);
    if (!all) request.range.after = draw_due(node);
    if (!all) request.range.before = *request.range.after + milliseconds(random_.below(5'000));
    bool any = false;
    const std::set<TaskId> held = busy(node, any);
    for (const auto& [due, id] : head_.model().order) {
        const bool is_in = (!request.range.after || due > *request.range.after) &&
                           (!request.range.before || due < *request.range.before);
        if (is_in && held.count(id) == 0 && !any) request.ids.push_back(id);
    }
    if (request.ids.size() > 4'096) marks_.hit("a bulk cancel in several groups");
    begin(node, request, waits, [&] { return node.tasks->begin_cancel(request.range); });
}

inline void Cluster::set_sink(Node& node) {
    if (!has_sinks_ || !node.sinks) return;
    const std::string name = random_.chance(50) ? "alpha" : "beta";
    const std::uint64_t kind = random_.below(3);
    const Result result = call(node, [&] {
        if (kind == 0) {
            (void)node.tasks->redeliver(name);
        } else if (kind == 1 && random_.chance(30)) {
            node.tasks->pause_sink(name);
        } else {
            node.tasks->resume_sink(name);
        }
    });
    if (!result.code || *result.code != Errc::unknown_sink) judge(result);
}

// ---- What is answered ------------------------------------------------------------

// Null: nothing was begun.
template <class Begin>
std::shared_ptr<Cluster::Begun> Cluster::begin(Node& node, Request request, bool waits,
                                               Begin made) {
    const auto begun = std::make_shared<Begun>();
    begun->request = std::move(request);
    const Result result = call(node, [&] { begun->ticket.emplace(made()); });
    if (result.was_well) begun->troubles = troubles_;
    if (trace_) {
        trace(node.name + " is asked for " + std::to_string(static_cast<int>(begun->request.kind)) +
              (begun->request.numbers.empty()
                   ? ""
                   : " m" + std::to_string(begun->request.numbers.front())) +
              (result.ok ? "" : ": " + result.what));
    }
    if (!result.ok) {
        settle(*begun, result);
        return nullptr;
    }
    require(result.was_owner, node.name + " changes what it follows");
    if (begun->ticket->again()) {
        marks_.hit("a change that met another one");
        return nullptr;
    }
    const bool is_new = begun->request.ids.empty() && !begun->ticket->ids().empty();
    if (is_new) begun->request.ids = begun->ticket->ids();
    stand_by(begun->request);
    node.begun.push_back(begun);
    if (waits) wait_for(node, begun);
    return begun;
}

inline void Cluster::wait_for(Node& node, const std::shared_ptr<Begun>& begun) {
    const std::shared_ptr<Begun> kept = begun;
    node.begun.erase(std::find(node.begun.begin(), node.begun.end(), kept));
    if (!kept->ticket) return;  // nobody hears of it
    const Result result = call(node, [&] { kept->ticket->wait(); });
    if (trace_) trace(node.name + " has answered: " + (result.ok ? "stored" : result.what));
    settle(*kept, result);
}

// Cancels that may be stored.
inline void Cluster::stand_by(const Request& request) {
    if (request.kind != Effect::Kind::cancel) return;
    if (request.is_bulk) return bulks_.push_back(request.range);
    ++claims_[request.ids.front()];
}

inline void Cluster::take_back(const Request& request) {
    refused_.insert(request.numbers.begin(), request.numbers.end());
    if (request.kind != Effect::Kind::cancel) return;
    if (!request.is_bulk) {
        --claims_[request.ids.front()];
        return;
    }
    for (auto at = bulks_.begin(); at != bulks_.end(); ++at) {
        if (at->after != request.range.after || at->before != request.range.before) continue;
        bulks_.erase(at);
        return;
    }
}

inline bool Cluster::is_claimed(TaskId id, TimePoint due) const {
    const auto claim = claims_.find(id);
    if (claim != claims_.end() && claim->second > 0) return true;
    return std::any_of(bulks_.begin(), bulks_.end(), [due](const scheduler::DueRange& range) {
        return (!range.after || due > *range.after) && (!range.before || due < *range.before);
    });
}

// Whether a call may have ended so.
inline void Cluster::judge(const Result& result) const {
    if (result.memory) return;
    if (result.ok) return;
    require(result.code.has_value(), "a call has thrown what is no Error");
    switch (*result.code) {
        case Errc::unknown_task:
        case Errc::already_emitted:
        case Errc::clock_untrusted:
            return;
        case Errc::not_owner:
        case Errc::journal_failed:
        case Errc::outcome_unknown:
        case Errc::stopped:
            return require(!result.was_well, "a node has refused a change: " + result.what);
        default:
            fail("a node has refused a change: " + result.what);
    }
}

inline void Cluster::settle(const Begun& begun, const Result& result) {
    const Request& request = begun.request;
    // What was begun may have failed before.
    if (!begun.ticket || begun.troubles == troubles_) judge(result);
    if (result.ok) {
        for (const std::uint64_t number : request.numbers) {
            require(seen_.count(number) != 0,
                    "m" + std::to_string(number) + " was acknowledged and is not stored");
        }
        if (request.kind != Effect::Kind::cancel) return;
        for (const TaskId id : request.ids) {
            require(head_.cancelled().count(id) != 0,
                    "task " + id.str() + " is said to be cancelled, and is not");
        }
        return;
    }
    if (result.memory || !result.code) return;
    if (*result.code == Errc::outcome_unknown) return marks_.hit("an outcome that is not known");
    for (const std::uint64_t number : request.numbers) {
        require(seen_.count(number) == 0,
                "m" + std::to_string(number) + " was refused and is stored: " + result.what);
    }
    if (!begun.ticket) {  // nothing was begun
        refused_.insert(request.numbers.begin(), request.numbers.end());
        return;
    }
    take_back(request);
    if (request.kind == Effect::Kind::cancel && !request.is_bulk) {
        const TaskId id = request.ids.front();
        require(head_.cancelled().count(id) == 0 || is_claimed(id, TimePoint()) || !bulks_.empty(),
                "task " + id.str() + " is cancelled, which was refused: " + result.what);
    }
    marks_.hit("a change that was begun and not stored");
}

}  // namespace sim

#endif  // TESTS_SIM_CLUSTER_REQUESTS_HPP
