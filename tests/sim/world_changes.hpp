// SPDX-License-Identifier: MIT
//
// What clients change, and what must come of that.

#ifndef TESTS_SIM_WORLD_CHANGES_HPP
#define TESTS_SIM_WORLD_CHANGES_HPP

#include "world.hpp"

namespace sim {

// ---- What is asked for ---------------------------------------------------------

// A message as a client writes it, and what is to be kept of it: every token, and no white
// space between them.  The number makes each the only one of its kind.
inline std::string World::message(std::string& kept) {
    const std::string number = std::to_string(++numbers_);
    switch (random_.below(5)) {
        case 0:
            kept = "{\"n\":" + number + ",\"b\":1.10,\"b\":1e400,\"a\":12345678901234567890}";
            return "{ \"n\" : " + number +
                   ",\n\"b\":1.10 , \"b\":1e400,\t\"a\":12345678901234567890}";
        case 1:
            kept = "[" + number + ",\"\\u00e9\\/ x\",{}]";
            return " [ " + number + " , \"\\u00e9\\/ x\",{ } ]\n";
        case 2:
            kept = "\"" + number + " {\\\"op\\\":\\\"cancel\\\"}\"";
            return kept;
        case 3:
            kept =
                "{\"n\":" + number + ",\"text\":\"" + std::string(random_.below(300), 'x') + "\"}";
            return kept;
        default:
            kept = "{\"n\":" + number + "}";
            return kept;
    }
}

inline std::string payload_of(TimePoint due, const std::string& kept, const std::string& topic,
                              std::optional<milliseconds> max_lateness) {
    std::string payload =
        "{\"timestamp\":\"" + scheduler::format_time(due) + "\",\"message\":" + kept;
    if (!topic.empty()) payload += ",\"topic\":\"" + topic + '"';
    if (max_lateness) {
        payload += ",\"max_lateness\":\"" + std::to_string(max_lateness->count()) + "ms\"";
    }
    return payload + "}";
}

inline TimePoint World::draw_due() {
    const std::uint64_t kind = random_.below(100);
    if (kind < 8) return now() - milliseconds(random_.below(5'000));
    if (kind < 40) return now() + milliseconds(random_.below(5'000));
    if (plan_.has_brownouts()) return now() + milliseconds(random_.below(1'800'000));
    if (kind < 70) return now() + milliseconds(random_.below(600'000));
    if (kind < 95) return now() + milliseconds(random_.below(86'400'000));
    return now() + std::chrono::hours(random_.below(24 * 300));
}

inline std::string World::draw_topic() {
    constexpr std::array topics{"", "", "a", "ab", "b/c", "b/d"};
    return topics[random_.below(topics.size())];
}

inline std::vector<std::string> World::draw_topics() {
    constexpr std::array patterns{"a", "a*", "b/*", "b/c", "*", "none"};
    std::vector<std::string> topics{patterns[random_.below(patterns.size())]};
    if (random_.chance(30)) topics.emplace_back(patterns[random_.below(patterns.size())]);
    return topics;
}

inline scheduler::Filter World::draw_filter() {
    scheduler::Filter filter;
    if (random_.chance(50)) filter.topics = draw_topics();
    const std::uint64_t kind = random_.below(6);
    if (kind == 0) filter.text = std::to_string(random_.below(100));
    if (kind == 1) filter.text = "xx";
    if (kind == 2) filter.text = "\\u00e9";
    if (kind != 3) return filter;
    if (const auto id = draw_pending()) filter.text = id->str().substr(random_.below(30));
    return filter;
}

inline std::optional<TaskId> World::draw_pending() {
    if (live_.pending.empty()) return std::nullopt;
    auto at = live_.pending.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(live_.pending.size())));
    return at->first;
}

// A task to schedule, which the effect then tells of.
inline scheduler::NewTask World::new_task(Effect& effect, TimePoint due) {
    std::string kept;
    scheduler::NewTask task;
    task.message = message(kept);
    task.due = due;
    task.topic = draw_topic();
    if (random_.chance(20)) task.max_lateness = milliseconds(random_.between(1'000, 600'000));
    ModelTask model{TaskId(), due, payload_of(due, kept, task.topic, task.max_lateness),
                    task.max_lateness, task.topic};
    effect.tasks.push_back(std::move(model));
    return task;
}

inline void World::schedule(std::size_t count, bool wait) {
    if (live_.pending.size() > (plan_.large ? 20'000U : 250U)) return;
    std::vector<scheduler::NewTask> tasks;
    Effect effect;
    const bool same = random_.chance(30);
    const TimePoint due = draw_due();
    for (std::size_t i = 0; i < count; ++i) {
        tasks.push_back(new_task(effect, same ? due : draw_due()));
    }
    if (plan_.weight(Act::repeat_key) > 0 && random_.chance(40)) {
        effect.key = "key-" + std::to_string(++numbers_);
    }
    submit(tasks, std::move(effect), wait);
}

inline void World::submit(const std::vector<scheduler::NewTask>& tasks, Effect effect, bool wait) {
    update_trust();
    effect.kind = Effect::Kind::schedule;
    effect.at = now();
    for (const ModelTask& task : effect.tasks) effect.identity += task.payload + '\n';
    std::optional<scheduler::Ticket> ticket;
    const Result result = call([&] { ticket.emplace(tasks_->submit(tasks, effect.key)); });
    if (!result.ok) return refused(result, "scheduling");
    if (!stamp_known_) trusted_ = tasks_->stats().clock_trusted;
    if (!trusted_) {
        fail("a task was taken although the clock is not trusted before " +
             scheduler::format_time(live_.stamp));
    }
    if (!effect.key.empty()) requests_[effect.key] = {tasks, effect, processes_};
    take_submitted(std::move(*ticket), std::move(effect), wait);
}

inline void World::take_submitted(scheduler::Ticket ticket, Effect effect, bool wait) {
    require(ticket.ids().size() == effect.tasks.size(), "a ticket has other ids than tasks");
    TaskId last;
    if (!live_.pending.empty()) last = live_.pending.rbegin()->first;
    if (!live_.event_of.empty()) last = std::max(last, live_.event_of.rbegin()->first);
    for (std::size_t i = 0; i < effect.tasks.size(); ++i) {
        effect.tasks[i].id = ticket.ids()[i];
        if (!(last < ticket.ids()[i])) {
            fail("id " + ticket.ids()[i].str() + " is not greater than " + last.str());
        }
        last = ticket.ids()[i];
    }
    if (!effect.key.empty()) answers_[effect.key].insert(effect.tasks.front().id);
    if (!effect.key.empty()) trace("with " + effect.key + ':');
    begun(std::move(ticket), std::move(effect), wait);
}

// Sends a request with a key once more, or another one with the same key.
inline void World::repeat_key() {
    if (requests_.empty()) return;
    auto at = requests_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(requests_.size())));
    if (random_.chance(50)) {
        for (const BegunRef& one : open_) {
            const auto found = requests_.find(one->effect.key);
            if (found != requests_.end()) at = found;
        }
    }
    const std::string key = at->first;
    if (random_.chance(25)) {
        std::string kept;
        scheduler::NewTask other;
        other.message = message(kept);
        other.due = draw_due();
        Effect effect;
        effect.tasks.push_back({TaskId(), other.due, payload_of(other.due, kept, {}, {}), {}, {}});
        return submit_again(key, {other}, std::move(effect), true);
    }
    submit_again(key, at->second.tasks, at->second.effect, false);
}

// The key may be known for certain, or have had its day, in which case the scheduler may
// know it or not.
inline void World::submit_again(const std::string& key,
                                const std::vector<scheduler::NewTask>& tasks, Effect effect,
                                bool is_other) {
    update_trust();
    const Effect* first = nullptr;  // the request that is on its way
    for (const BegunRef& one : open_) {
        if (one->effect.key == key) first = &one->effect;
    }
    const auto known = live_.keys.find(key);
    const bool certain = first || (live_.knows(key, latest_) && unsure_.count(key) == 0);
    std::vector<TaskId> ids;
    if (first) {
        for (const ModelTask& task : first->tasks) ids.push_back(task.id);
    } else if (certain) {
        ids = known->second.ids;
    }
    // One that may have been forgotten, or lost with the power, has one of these answers.
    const auto& answers = answers_[key];
    std::optional<scheduler::Ticket> ticket;
    const Result result = call([&] { ticket.emplace(tasks_->submit(tasks, key)); });
    if (result.code == Errc::key_reused) {
        require(is_other || !certain, "a key is said to be of another request, and is not");
        return marks_.hit("a key with another request");
    }
    if (!result.ok) return refused(result, "a repeated request");
    const bool known_answer = answers.count(ticket->ids().front()) != 0;
    if (certain ? ticket->ids() == ids : known_answer) {
        require(!is_other, "another request got the answer of the first");
        return take_repeated(std::move(*ticket), key, first != nullptr);
    }
    if (certain) fail("key " + key + " must be known and was forgotten");
    if (known != live_.keys.end()) marks_.hit("a key forgotten after its day");
    live_.keys.erase(key);  // and it is unsure until the new answer is stored
    unsure_.insert(key);
    effect.key = key;
    effect.at = now();
    effect.identity.clear();
    for (const ModelTask& task : effect.tasks) effect.identity += task.payload + '\n';
    requests_[key] = {tasks, effect, processes_};
    take_submitted(std::move(*ticket), std::move(effect), true);
}

inline void World::take_repeated(scheduler::Ticket ticket, const std::string& key,
                                 bool on_its_way) {
    marks_.hit(on_its_way ? "a key repeated while on its way" : "a key repeated");
    if (requests_[key].process != processes_) marks_.hit("a key known after a restart");
    auto one = std::make_shared<Begun>();
    one->group = on_its_way ? group_ : 0;
    if (!on_its_way) one->stored = true;
    one->ticket.emplace(std::move(ticket));
    tickets_.push_back(one);
    if (random_.chance(50)) wait_for(one);
}

inline void World::cancel(bool wait) {
    std::optional<TaskId> id = draw_pending();
    if (!id) return;
    Effect effect;
    effect.kind = Effect::Kind::cancel;
    effect.at = now();
    effect.ids.push_back(*id);
    const bool meets = busy().count(*id) != 0;
    std::optional<scheduler::Ticket> ticket;
    const Result result = call([&] { ticket.emplace(tasks_->begin_cancel(*id)); });
    if (meets && result.code == Errc::unknown_task) {  // the cancel on its way was stored since
        resolve(true, result, nullptr);
        return require(live_.pending.count(*id) == 0, "a pending task cannot be cancelled");
    }
    if (!result.ok) return refused(result, "cancelling");
    require(ticket->again() == meets, "a change does not see that another is on its way");
    begun_or_met(std::move(*ticket), std::move(effect), *id, wait);
}

inline void World::change(bool wait) {
    std::optional<TaskId> id = draw_pending();
    if (!id) return;
    update_trust();
    std::string kept;
    scheduler::TaskChange changed;
    Effect effect;
    effect.kind = Effect::Kind::change;
    effect.at = now();
    changed.message = message(kept);
    ModelTask task = live_.pending.at(*id);
    if (random_.chance(60)) task.due = *(changed.due = draw_due());
    task.payload = payload_of(task.due, kept, task.topic, task.max_lateness);
    effect.tasks.push_back(task);
    const bool meets = busy().count(*id) != 0;
    std::optional<scheduler::Ticket> ticket;
    const Result result = call([&] { ticket.emplace(tasks_->begin_change(*id, changed)); });
    if (!result.ok) return refused(result, "changing");
    if (!stamp_known_) trusted_ = tasks_->stats().clock_trusted;
    require(ticket->again() == meets, "a change does not see that another is on its way");
    begun_or_met(std::move(*ticket), std::move(effect), *id, wait);
}

// What a search for tasks finds, page by page; one whose change is on its way is as it was.
inline void World::check_search(const scheduler::DueRange& range, const scheduler::Filter& filter,
                                const std::vector<TaskId>& chosen) {
    scheduler::TaskQuery query;
    query.limit = random_.between(1, 100);
    query.due = range;
    query.filter = filter;
    query.counts = true;
    std::vector<TaskId> found;
    for (bool more = true; more;) {
        scheduler::TaskPage page;
        if (!call([&] { page = tasks_->tasks(query); }).ok) return;
        require(page.matching == chosen.size(), "a search counts another number of tasks");
        for (const Task& task : page.tasks) found.push_back(task.id);
        more = page.more;
        query.after = page.next;
    }
    require(found == chosen, "a search finds other tasks");
    if (!filter.is_open() && !found.empty()) marks_.hit("a search that has found tasks");
}

// Makes a task of one of a few names, or replaces it.
inline void World::put(bool wait) {
    update_trust();
    const std::string name = "name-" + std::to_string(random_.below(4));
    std::optional<TaskId> known;
    for (const auto& [id, task] : live_.pending) {
        if (task.name != name) continue;
        // Of two, what the name means now and after a restart depends on how they end.
        if (known || id != live_.newest.at(name)) return;
        known = id;
    }
    const bool arrives = std::any_of(open_.begin(), open_.end(), [&name](const BegunRef& one) {
        return one->effect.kind == Effect::Kind::schedule && one->effect.tasks.front().name == name;
    });
    const bool meets = arrives || (known && busy().count(*known) != 0);
    const auto condition = static_cast<scheduler::PutIf>(random_.below(3));
    Effect effect;
    effect.at = now();
    const scheduler::NewTask task = new_task(effect, draw_due());
    effect.tasks.front().name = name;
    std::optional<scheduler::Ticket> ticket;
    const Result result = call([&] { ticket.emplace(tasks_->begin_put(name, task, condition)); });
    if (result.code == Errc::condition_failed) {
        const auto refused_if = known ? scheduler::PutIf::absent : scheduler::PutIf::present;
        require(!meets && condition == refused_if, "a put says that its condition is not met");
        return marks_.hit("a put whose condition was not met");
    }
    if (!result.ok) return refused(result, "putting");
    if (!stamp_known_) trusted_ = tasks_->stats().clock_trusted;
    require(ticket->again() == meets, "a put does not see that another change is on its way");
    if (meets) {
        marks_.hit("a put that met another change on its way");
        return begun_or_met(std::move(*ticket), std::move(effect), known.value_or(TaskId()), wait);
    }
    require(ticket->creates() == !known, "a put makes a task, or replaces none");
    marks_.hit(known ? "a put that replaced a task" : "a put that made a task");
    if (!known) return take_submitted(std::move(*ticket), std::move(effect), wait);
    require(ticket->ids().front() == *known, "a put replaces another task");
    effect.kind = Effect::Kind::change;
    effect.tasks.front().id = *known;
    begun(std::move(*ticket), std::move(effect), wait);
}

inline void World::cancel_range(bool wait) {
    scheduler::DueRange range;
    if (random_.chance(70)) range.after = draw_due();
    if (random_.chance(70))
        range.before =
            (range.after ? *range.after : draw_due()) + milliseconds(random_.below(7'200'000));
    scheduler::Filter filter;
    if (random_.chance(plan_.large ? 15 : 50)) filter = draw_filter();
    Effect effect;
    effect.kind = Effect::Kind::cancel;
    effect.at = now();
    const std::set<TaskId> held = busy();
    std::vector<TaskId> chosen;
    for (const auto& [due, id] : live_.order) {
        if (range.after && due <= *range.after) continue;
        if (range.before && due >= *range.before) continue;
        if (!is_chosen(filter, live_.pending.at(id))) continue;
        chosen.push_back(id);
        if (held.count(id) == 0) effect.ids.push_back(id);
    }
    check_search(range, filter, chosen);
    std::optional<scheduler::Ticket> ticket;
    const Result result = call([&] { ticket.emplace(tasks_->begin_cancel(range, filter)); });
    if (!result.ok) return refused(result, "cancelling in bulk");
    require(ticket->count() == effect.ids.size(), "a bulk cancel takes another number of tasks");
    if (effect.ids.size() > 4'096) marks_.hit("a bulk cancel in several parts");
    auto one = std::make_shared<Begun>();
    one->bulk = true;
    one->range = range;
    one->filter = filter;
    one->before = open_;
    if (!live_.pending.empty()) one->last = live_.pending.rbegin()->first;
    one->ticket.emplace(std::move(*ticket));
    one->sure = effect.ids.size();
    one->effect = std::move(effect);
    tickets_.push_back(one);
    bulks_.push_back(one);
    trace("begun: " + describe(*one));
    if (wait) wait_for(one);
}

// Sinks keep what they have not taken.
inline void World::forget() {
    if (sinks_adopted_) return;  // how far they are is known only about
    observe();
    Effect effect;
    effect.kind = Effect::Kind::forget;
    effect.at = now();
    scheduler::EventRange range;
    std::uint64_t wanted = live_.next_seq;
    for (const auto& [name, sink] : live_.sinks) wanted = std::min(wanted, sink.seq);
    if (random_.chance(70) && live_.next_seq > 0) {
        effect.seq = random_.below(live_.next_seq);
        range.begin = Cursor(effect.seq);
    }
    effect.end = wanted;
    if (random_.chance(70)) {
        range.end = Cursor(effect.seq + random_.below(10));
        effect.end = std::min(wanted, range.end.seq());
    }
    std::size_t count = 0;
    if (effect.seq < effect.end)
        count = live_.count_from(effect.seq) - live_.count_from(effect.end);
    std::optional<scheduler::Ticket> ticket;
    const Result result = call([&] { ticket.emplace(tasks_->begin_forget(range)); });
    if (!result.ok) return refused(result, "forgetting");
    require(ticket->count() == count, "another number of events is forgotten");
    if (effect.seq >= effect.end) return;
    begun(std::move(*ticket), std::move(effect), true);
    marks_.hit("events that were forgotten");
}

inline void World::pause_or_resume(Effect::Kind kind) {
    Effect effect;
    effect.kind = kind;
    effect.at = now();
    const bool pauses = kind == Effect::Kind::pause;
    if (pauses && random_.chance(70)) effect.reason = "reason " + std::to_string(++numbers_);
    std::optional<scheduler::Ticket> ticket;
    const Result result = call([&] {
        ticket.emplace(pauses ? tasks_->begin_pause(effect.reason) : tasks_->begin_resume());
    });
    if (!result.ok) return refused(result, pauses ? "pausing" : "resuming");
    begun(std::move(*ticket), std::move(effect), random_.chance(60));
}

// A call that begins something and does not wait is refused for few reasons.
inline void World::refused(const Result& result, const char* what) {
    trace(std::string(what) + " was refused: " + result.what);
    if (result.memory) return marks_.hit("a failed allocation that refused a change");
    if (result.code == Errc::clock_untrusted && !trusted_) return;
    if (result.code == Errc::disk_full && !plan_.has_brownouts()) {
        require(disk_.is_full() || tasks_->stats().disk_full, "a change was refused for no room");
        return marks_.hit("a change refused for want of room");
    }
    fail(std::string(what) + " was refused: " + result.what);
}

inline World::BegunRef World::begun(scheduler::Ticket ticket, Effect effect, bool wait) {
    auto one = std::make_shared<Begun>();
    one->group = group_;
    one->ticket.emplace(std::move(ticket));
    one->effect = std::move(effect);
    tickets_.push_back(one);
    open_.push_back(one);
    trace("begun: " + describe(*one));
    if (wait) wait_for(one);
    return one;
}

// A change of a task, which may have met another one.
inline void World::begun_or_met(scheduler::Ticket ticket, Effect effect, TaskId id, bool wait) {
    if (!ticket.again()) {
        begun(std::move(ticket), std::move(effect), wait);
        return;
    }
    marks_.hit("a change that met another on its way");
    auto one = std::make_shared<Begun>();
    one->again = true;
    one->group = group_;
    one->ticket.emplace(std::move(ticket));
    for (const BegunRef& bulk : bulks_) {
        const std::vector<TaskId>& ids = bulk->effect.ids;
        if (std::find(ids.begin(), ids.end(), id) != ids.end()) one->holder = bulk;
    }
    if (one->holder) marks_.hit("a change that met a bulk cancel on its way");
    tickets_.push_back(one);
    if (wait) wait_for(one);
}

inline World::BegunRef World::draw_ticket() {
    return tickets_.empty() ? nullptr : tickets_[random_.below(tickets_.size())];
}

inline std::string World::describe(const Begun& begun) const {
    if (begun.again) return begun.holder ? "a bulk cancel that was met" : "a change that was met";
    const Effect& effect = begun.effect;
    std::string text = begun.bulk ? "a bulk cancel of " : "a forgetting of ";
    if (effect.kind == Effect::Kind::schedule) text = "a schedule of ";
    if (effect.kind == Effect::Kind::change) text = "a change of ";
    if (effect.kind == Effect::Kind::cancel && !begun.bulk) text = "a cancel of ";
    if (effect.kind == Effect::Kind::pause) text = "a pause of ";
    if (effect.kind == Effect::Kind::resume) text = "a resume of ";
    text += std::to_string(effect.tasks.size() + effect.ids.size());
    if (!effect.tasks.empty()) text += ' ' + effect.tasks.front().id.str();
    if (!effect.ids.empty()) text += ' ' + effect.ids.front().str();
    return text + " in group " + std::to_string(begun.group);
}

inline void World::wait_for(const BegunRef& begun) {
    const BegunRef bulk = begun->bulk ? begun : begun->holder;
    const bool was_settled =
        bulk ? bulk->stored.has_value() : begun->stored || begun->group != group_;
    const std::uint64_t failures = tasks_->stats().journal_failures;
    const Result result = call([&] { begun->ticket->wait(); });
    const bool failed = tasks_->stats().journal_failures != failures;
    trace(std::string("waited for ") + describe(*begun) + ": " +
          (result.ok ? "stored" : result.what));
    if (!was_settled && !result.ok && !result.code) {
        require(result.memory, "bad_alloc although memory was there");
    }
    if (!was_settled && bulk) resolve_bulks(bulk, failed, result);
    if (!was_settled && !bulk) resolve(true, result, begun.get());
    if (!has_crashed() && begun->stored && !begun->again && !begun->taken) {
        require(result.ok == *begun->stored, result.ok ? "a ticket is stored, and is not"
                                                       : "a ticket has failed, and is stored");
    }
    if (begun->bulk && result.ok && !begun->taken && !has_crashed()) {
        require(begun->ticket->count() == begun->effect.ids.size(),
                "a bulk cancel took another number of tasks");
    }
    const bool stored = begun->stored && *begun->stored;
    const bool wrote = !begun->bulk || !begun->effect.ids.empty();
    advance_bounds(!was_settled && result.ok && stored && wrote, false, result);
    forget_ticket(begun);
    if (has_crashed()) return;
    for (const TaskId id : begun->effect.ids) check_task(id);
    for (const ModelTask& task : begun->effect.tasks) check_task(task.id);
}

// One that would take long is left alone: then nothing has failed.
inline void World::try_store() {
    const BegunRef begun = draw_ticket();
    if (!begun) return;
    const bool was_settled = begun->stored || begun->group != group_;
    bool stored = false;
    const std::uint64_t failures = tasks_->stats().journal_failures;
    Result result = call([&] { stored = begun->ticket->try_store(); });
    require(result.ok, "try_store() has thrown");
    result.ok = stored;
    if (was_settled || begun->bulk || begun->again) return;
    if (!stored && !has_crashed() && tasks_->stats().journal_failures == failures) return;
    resolve(true, result, begun.get());
    if (has_crashed()) return;
    if (begun->stored) require(stored == *begun->stored, "try_store() says what is not so");
    if (stored) marks_.hit("a ticket stored by try_store()");
    advance_bounds(stored, false, result);
}

inline void World::drop_ticket() {
    if (const BegunRef begun = draw_ticket()) forget_ticket(begun);
}

inline void World::forget_ticket(const BegunRef& begun) {
    begun->ticket.reset();
    tickets_.erase(std::remove(tickets_.begin(), tickets_.end(), begun), tickets_.end());
}

// The tasks that a change or a cancel on its way is about.
inline std::set<TaskId> World::busy() const {
    std::set<TaskId> ids;
    for (const auto* all : {&open_, &bulks_}) {
        for (const BegunRef& one : *all) {
            if (one->effect.kind == Effect::Kind::schedule) continue;
            for (const ModelTask& task : one->effect.tasks) ids.insert(task.id);
            ids.insert(one->effect.ids.begin(), one->effect.ids.end());
        }
    }
    return ids;
}

// ---- What came of them -----------------------------------------------------------

// Whether the scheduler shows that an effect has happened.
inline bool World::is_applied(const Effect& effect) const {
    if (effect.kind == Effect::Kind::schedule) {
        const bool first = tasks_->find(effect.tasks.front().id).has_value();
        const bool last = tasks_->find(effect.tasks.back().id).has_value();
        require(first == last, "a batch was stored by halves");
        return first;
    }
    if (effect.kind == Effect::Kind::change) {
        const auto task = tasks_->find(effect.tasks.front().id);
        return task && task->text() == effect.tasks.front().payload;
    }
    if (effect.kind == Effect::Kind::forget) {
        const auto events = tasks_->events({1, Cursor(effect.seq), std::nullopt, all_of_them});
        return events.events.empty() || events.events.front().seq >= effect.end;
    }
    if (effect.ids.empty()) return true;
    const bool first = !tasks_->find(effect.ids.front());
    require(first == !tasks_->find(effect.ids.back()), "tasks were cancelled by halves");
    return first;
}

// Whether a bulk call may have taken the task of a change, or of a cancel that failed, so that
// nothing shows what became of that.
inline bool World::is_taken(const Begun& begun, const Result& result) const {
    const bool cancels = begun.effect.kind == Effect::Kind::cancel && result.faulted;
    if (begun.effect.kind != Effect::Kind::change && !cancels) return false;
    const TaskId id = cancels ? begun.effect.ids.front() : begun.effect.tasks.front().id;
    if (tasks_->find(id)) return false;
    const auto before_it = [&begun](const BegunRef& one) { return one.get() == &begun; };
    const auto old = live_.pending.find(id);
    return std::any_of(bulks_.begin(), bulks_.end(), [&](const BegunRef& bulk) {
        if (bulk->failed) return false;
        const bool wants = (old != live_.pending.end() && bulk->wants(old->second)) ||
                           (!cancels && bulk->wants(begun.effect.tasks.front()));
        return wants && std::any_of(bulk->before.begin(), bulk->before.end(), before_it);
    });
}

// Whether the open group is stored, as far as the bulk calls tell that have taken all of its
// tasks: each as its change leaves it, or as it was.
inline bool World::seems_stored(const Result& result) const {
    bool may_be = true;
    bool must_be = false;
    const auto wanted = [this](const ModelTask& task) {
        return std::any_of(bulks_.begin(), bulks_.end(), [&task](const BegunRef& bulk) {
            return !bulk->failed && bulk->wants(task);
        });
    };
    for (const BegunRef& one : open_) {
        if (!one->taken || one->effect.kind != Effect::Kind::change) continue;
        const auto old = live_.pending.find(one->effect.tasks.front().id);
        may_be = may_be && wanted(one->effect.tasks.front());
        must_be = must_be || old == live_.pending.end() || !wanted(old->second);
    }
    const bool well = !result.faulted && !has_crashed() && !disk_.is_full();
    return may_be && (must_be || well);
}

// Whether the pauses and resumes of the open group are stored, if that shows: together they may
// come to nothing.
inline std::optional<bool> World::pauses_stored() const {
    Model after;
    after.paused = live_.paused;
    for (const BegunRef& one : open_) {
        if (is_pause(one->effect)) after.apply(one->effect);
    }
    if (after.paused == live_.paused) return std::nullopt;
    const auto shown = pause_of(*tasks_);
    require(shown == after.paused || shown == live_.paused, "pauses were stored by halves");
    return shown == after.paused;
}

// Finds out what became of the open group, which a call may have committed.  On a full disk
// there is room for ends of tasks alone, so that these may be stored without the others.
inline void World::resolve(bool committed, const Result& result, const Begun* waited) {
    if (open_.empty()) {
        if (committed) ++group_;
        return;
    }
    Tally ends;
    Tally others;
    const std::optional<bool> pauses = pauses_stored();
    if (pauses) others.add(*pauses);
    for (const BegunRef& one : open_) {
        one->taken = is_taken(*one, result);
        if (one->taken) continue;
        if (is_pause(one->effect)) {
            if (one.get() == waited && !pauses) others.add(result.ok);
            one->taken = !pauses;  // nothing shows what became of it
            continue;
        }
        // Events that are gone may also have been dropped, so that a ticket has to tell.
        const bool forgets = one->effect.kind == Effect::Kind::forget;
        const bool stored = forgets && one.get() == waited ? result.ok : is_applied(one->effect);
        (is_end(*one) ? ends : others).add(stored);
    }
    const bool well = seems_stored(result);
    const auto ends_something = [](const BegunRef& one) { return is_end(*one); };
    if (!disk_.is_full() || std::none_of(open_.begin(), open_.end(), ends_something) ||
        std::all_of(open_.begin(), open_.end(), ends_something)) {
        ends.add(others);
        others = ends;
    }
    if (!ends.is_all(well) && !others.is_all(well) && !committed && !has_crashed()) return;
    require((ends.is_clear() && others.is_clear()) || has_crashed(),
            "a group was stored by halves");
    if (others.told == 0 && result.faulted) stamp_known_ = false;
    settle_open(ends.is_all(well), others.is_all(well), result, waited);
}

inline void World::settle_open(bool ends, bool others, const Result& result, const Begun* waited) {
    const auto shows_end = [](const BegunRef& one) { return is_end(*one) && !one->taken; };
    const bool any_end = std::any_of(open_.begin(), open_.end(), shows_end);
    if (!others && !has_crashed()) judge_failure(result, false);
    if (!ends && any_end && !has_crashed()) judge_failure(result, true);
    if (ends != others) marks_.hit("a full disk that let through the ends of a group alone");
    if (!ends && !others && has_crashed() && open_.size() > 1) {
        marks_.hit("a group of several changes cut by a crash");
    }
    for (const BegunRef& one : open_) {
        one->stored = is_end(*one) ? ends : others;
        if (!*one->stored) {
            // Only whoever has waited for the same knows its outcome.
            Result its = result;
            if (!waited || is_end(*waited) != is_end(*one)) its.code.reset();
            // A change that a bulk call has taken may be there without that after a crash.
            if (one->taken && one->effect.kind == Effect::Kind::change) {
                log_.push_back({one->effect, Ghost::any});
            } else {
                log_ghost(one->effect, its);
            }
            const bool pauses = one->effect.kind == Effect::Kind::pause;
            if (pauses && !has_crashed()) marks_.hit("a pause that could not be stored");
            continue;
        }
        if (!one->ticket) marks_.hit("a ticket that was dropped and stored all the same");
        if (waited && one.get() != waited)
            marks_.hit("a group stored by the wait of another ticket");
        if (is_end(*one) && disk_.is_full()) marks_.hit("a cancel on a full disk");
        log(one->effect);
    }
    // What a failed group has let go may have been taken, or not, as far as anybody sees.
    for (const BegunRef& bulk : bulks_) bulk->taken = bulk->taken || result.faulted;
    const std::vector<BegunRef> settled = std::exchange(open_, {});
    ++group_;
    for (const BegunRef& one : settled) offer(one);
}

// A task whose change was on its way when a bulk call came, and that is pending then, belongs
// to that call.
inline void World::offer(const BegunRef& settled) {
    const Effect& effect = settled->effect;
    if (effect.kind == Effect::Kind::schedule || effect.kind == Effect::Kind::forget) return;
    if (is_pause(effect)) return;
    const TaskId id = effect.ids.empty() ? effect.tasks.front().id : effect.ids.front();
    const auto task = live_.pending.find(id);
    if (task == live_.pending.end() || busy().count(id) != 0) return;
    for (const BegunRef& bulk : bulks_) {
        const auto& before = bulk->before;
        if (std::find(before.begin(), before.end(), settled) == before.end()) continue;
        if (!bulk->wants(task->second)) continue;
        bulk->effect.ids.push_back(id);
        return marks_.hit("a bulk cancel that took a task whose change was on its way");
    }
}

// What a bulk call has also taken if certain changes were stored, which nobody knows.
inline void World::add_doubtful(Begun& bulk) const {
    for (const BegunRef& one : bulk.before) {
        if (one->effect.kind != Effect::Kind::change) continue;
        const ModelTask& task = one->effect.tasks.front();
        if (bulk.wants(task)) bulk.effect.tasks.push_back(task);
    }
}

// Whether a bulk call shows that it has failed.
inline bool World::has_failed(Begun& bulk) const {
    if (bulk.ticket) return !bulk.ticket->try_store();
    return bulk.sure > 0 && tasks_->find(bulk.effect.ids.front()).has_value();
}

// Whether a bulk call is stored; without its ticket, what is there tells.
inline bool World::is_bulk_stored(Begun& begun) {
    if (begun.ticket) return begun.ticket->try_store();
    const auto& ids = begun.effect.ids;
    const auto is_there = [this](TaskId id) { return tasks_->find(id).has_value(); };
    const std::size_t sure = begun.sure > 0 ? begun.sure : std::min<std::size_t>(ids.size(), 1);
    return std::none_of(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(sure), is_there);
}

inline void World::resolve_bulk(const BegunRef& begun, const Result& result) {
    auto& ids = begun->effect.ids;
    const auto is_there = [this](TaskId id) { return tasks_->find(id).has_value(); };
    const bool stored = is_bulk_stored(*begun);
    begun->stored = stored;
    bulks_.erase(std::remove(bulks_.begin(), bulks_.end(), begun), bulks_.end());
    // Whether it got what a failed group has let go shows only in what is there; what it did not
    // get the next one may have.
    if (begun->taken) {
        const auto last =
            std::stable_partition(ids.begin() + static_cast<std::ptrdiff_t>(begun->sure), ids.end(),
                                  [&](TaskId id) { return is_there(id) != stored; });
        if (!stored) std::for_each(last, ids.end(), [this](TaskId id) { offer_released(id); });
        ids.erase(last, ids.end());
    }
    if (ids.empty()) return;  // which is written nowhere
    const auto is_let_go = [&](TaskId id) {
        const auto task = live_.pending.find(id);
        const auto wants = [&](const BegunRef& bulk) {
            return !(bulk->last < id) && bulk->wants(task->second);
        };
        return is_there(id) || task == live_.pending.end() ||
               std::any_of(bulks_.begin(), bulks_.end(), wants);
    };
    const bool whole = stored ? std::none_of(ids.begin(), ids.end(), is_there)
                              : std::all_of(ids.begin(), ids.end(), is_let_go);
    require(whole || has_crashed(), "tasks were cancelled by halves");
    begun->effect.at = now();  // its record is made when it is stored
    if (stored) return log(begun->effect);
    add_doubtful(*begun);
    log_ghost(begun->effect, result);
    if (!has_crashed()) {
        judge_failure(result, true);
        marks_.hit("a bulk cancel that failed and was undone");
    } else if (begun->effect.ids.size() > 4'096) {
        marks_.hit("a bulk cancel cut by a crash between its parts");
    }
    for (const TaskId id : begun->effect.ids) offer_released(id);
}

// What a bulk call that failed lets go belongs to the next that wants it.
inline void World::offer_released(TaskId id) {
    const auto task = live_.pending.find(id);
    if (task == live_.pending.end()) return;
    for (const BegunRef& bulk : bulks_) {
        if (bulk->last < id || !bulk->wants(task->second)) continue;
        return bulk->effect.ids.push_back(id);
    }
}

// Bulk calls are stored in order, each after the group that was open when it came.
inline void World::resolve_bulks(const BegunRef& last, bool failed, const Result& result) {
    const auto end = std::find(bulks_.begin(), bulks_.end(), last) + 1;
    const std::vector<BegunRef> all(bulks_.begin(), end);
    const bool commits = std::any_of(all.begin(), all.end(), [](const BegunRef& one) {
        return !one->effect.ids.empty() || (!one->before.empty() && !one->before.front()->stored);
    });
    for (const BegunRef& one : all) one->failed = has_failed(*one);
    // One that fails for lack of memory may not have come so far.
    resolve(failed || (commits && !result.memory), result, nullptr);
    for (const BegunRef& one : all) {
        Result own = result;  // the last may know that it failed where an earlier one does not
        if (one != last) own.code = failure_of(*one);
        resolve_bulk(one, own);
    }
}

// Why a bulk call failed that another one was stored with: its ticket tells, if it is there.
inline std::optional<Errc> World::failure_of(Begun& bulk) const {
    if (!bulk.ticket || has_crashed()) return std::nullopt;
    try {
        bulk.ticket->wait();
    } catch (const Error& error) {
        return error.code();
    } catch (const std::bad_alloc&) {
    }
    return std::nullopt;
}

// A run stores whatever was begun.
inline void World::resolve_all(const Result& result) {
    const std::vector<BegunRef> all = bulks_;
    for (const BegunRef& one : all) one->failed = has_failed(*one);
    resolve(true, result, nullptr);
    for (const BegunRef& one : all) resolve_bulk(one, result);
}

// A change fails only if something else has.
inline void World::judge_failure(const Result& result, bool only_cancels) {
    marks_.hit("a group that failed and was undone");
    if (result.faulted || result.failed_before) return;
    require(disk_.is_full(), "a change failed although nothing else did");
    require(!only_cancels || !has_reserved_, "a full disk blocked a cancel");
}

// Moves the bounds after a call that may have written to the journal.
inline void World::advance_bounds(bool acknowledged, bool ran, const Result& result) {
    if (has_crashed()) return;
    const std::size_t rewrites = tasks_->stats().journal_rewrites;
    const bool replaced = std::exchange(rewrites_, rewrites) != rewrites;
    if (journal_failed_ || result.faulted) has_reserved_ = false;
    if (acknowledged && !disk_.is_full()) has_reserved_ = true;
    const bool has_room = !disk_.is_full() || has_reserved_;
    const bool well = !result.faulted && !journal_failed_ && has_room;
    if (replaced && result.failed_before) marks_.hit("a failed sync, then a replacement");
    const bool always = plan_.options.fsync == scheduler::Fsync::always;
    const bool synced = acknowledged && plan_.syncs_answers();
    if (acknowledged) owed_ = false;
    if (replaced && well) owed_ = false;
    settle_floats(acknowledged, replaced && well, result);
    if (!acknowledged && !(replaced && well) && !well) owed_ = true;
    if (!owed_) kept_by_crash_ = log_.size();
    // What came after the replacement, in the same call, is not known to be synced.
    if (replaced && well) kept_by_power_ = std::max(kept_by_power_, logged_at_call_);
    if (!owed_ && (synced || (always && ran && well))) kept_by_power_ = log_.size();
    if (plan_.options.fsync == scheduler::Fsync::everysec) advance_by_age(ran && well);
    absorb();
}

// What sinks have taken is written at once if it can be, and else before what comes when it
// can.
inline void World::settle_floats(bool acknowledged, bool replaced_well, const Result& result) {
    const auto floats = [](const Logged& one) { return one.floats; };
    const std::size_t before = std::min(logged_at_call_, log_.size());
    const bool any_new = std::any_of(log_.begin() + static_cast<std::ptrdiff_t>(before),
                                     log_.end(), floats);
    const bool well = !result.faulted && !journal_failed_ && !disk_.is_full();
    if (!replaced_well && !(well && (acknowledged || any_new))) return;
    for (std::size_t i = 0; i < log_.size(); ++i) {
        log_[i].late = log_[i].late || (log_[i].floats && i < before);
        log_[i].floats = false;
    }
    late_end_ = log_.size();
}

// Under everysec a run syncs what is older than a second.
inline void World::advance_by_age(bool ran_well) {
    if (ages_.empty() || ages_.back().second != log_.size()) {
        ages_.emplace_back(steady_time, log_.size());
    }
    if (!ran_well || owed_) return;
    while (!ages_.empty() && ages_.front().first + std::chrono::seconds(1) <= steady_time) {
        kept_by_power_ = std::max(kept_by_power_, ages_.front().second);
        ages_.erase(ages_.begin());
    }
}

// What no fault can take away any more needs no log.
inline void World::absorb() {
    // What was written late is synced when what was logged by then is.
    if (kept_by_power_ >= late_end_) {
        for (Logged& one : log_) one.late = false;
    }
    const auto floating = std::find_if(log_.begin(), log_.end(), [](const Logged& one) {
        return one.floats || one.late;
    });
    const std::size_t count = std::min(
        {kept_by_crash_, kept_by_power_, static_cast<std::size_t>(floating - log_.begin())});
    for (std::size_t i = 0; i < count; ++i) {
        if (log_[i].ghost == Ghost::none) base_.apply(log_[i].effect);
    }
    log_.erase(log_.begin(), log_.begin() + static_cast<std::ptrdiff_t>(count));
    kept_by_crash_ -= count;
    kept_by_power_ -= count;
    late_end_ -= std::min(late_end_, count);
    for (auto& [time, size] : ages_) size -= std::min(size, count);
}

inline void World::check_task(TaskId id) const {
    const auto task = tasks_->find(id);
    const auto pending = live_.pending.find(id);
    if (pending != live_.pending.end()) {
        require(task && task->status == scheduler::Status::pending, "a task is not pending");
        require(task->due == pending->second.due, "a task has another due time");
        require(task->text() == pending->second.payload, "a task has another payload");
        require(live_.shows(pending->second, task->topic(), task->name()),
                "a task has another topic or name");
        return;
    }
    const auto event = live_.event_of.find(id);
    if (event != live_.event_of.end()) {
        const ModelEvent& expected = live_.events[event->second];
        const bool retained = !expected.forgotten && expected.seq >= live_.trimmed;
        require(!!task == retained, "an event is there and should not be, or the other way round");
        return;
    }
    if (live_.missed.count(id) == 0) require(!task, "a task is there that should not be");
}

inline void World::check_all() {
    observe();
    const std::string found = difference(live_, Observed(*tasks_));
    if (!found.empty()) fail(found);
}

}  // namespace sim

#endif  // TESTS_SIM_WORLD_CHANGES_HPP
