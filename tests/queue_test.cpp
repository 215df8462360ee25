// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <random>

namespace queue_test {

using namespace scheduler;
using namespace scheduler::detail;

namespace {

TimePoint ms(std::int64_t count) {
    return TimePoint(milliseconds(count));
}

std::vector<StoredTask*> all(const DueQueue& queue) {
    std::vector<StoredTask*> tasks;
    for (DueQueue::Walk walk(queue); walk.task(); walk.next()) tasks.push_back(walk.task());
    return tasks;
}

// At most `most` tasks, from the first that is not before `from` on.
std::vector<StoredTask*> some(const DueQueue& queue, const DueKey& from, std::size_t most) {
    std::vector<StoredTask*> tasks;
    for (DueQueue::Walk walk(queue, from); walk.task() && tasks.size() < most; walk.next()) {
        tasks.push_back(walk.task());
    }
    return tasks;
}

// What is counted is what a walk meets.
void check_counts(const DueQueue& queue, std::mt19937& random) {
    std::vector<std::int64_t> moments{0, 1'000'001};
    for (int i = 0; i < 20; ++i) moments.push_back(random() % 60);
    for (int i = 0; i < 20; ++i) moments.push_back(random() % 1'000'000);
    std::sort(moments.begin(), moments.end());
    DueQueue::Counter counter(queue);
    DueQueue::Walk walk(queue);
    std::size_t met = 0;
    for (const std::int64_t moment : moments) {
        for (; walk.task() && walk.task()->due < ms(moment); walk.next()) ++met;
        REQUIRE(counter.before(ms(moment)) == met);
    }
}

struct Earlier {
    bool operator()(const StoredTask* a, const StoredTask* b) const {
        return DueKey{a->due, a->id} < DueKey{b->due, b->id};
    }
};

}  // namespace

TEST_SUITE("queue") {
    TEST_CASE("tasks come earliest first, and ties in order of arrival") {
        DueQueue queue;
        std::vector<TaskRef> records;
        for (const std::int64_t due : {5, 3, 5, 1, 3}) {
            records.push_back(support::task_of(records.size(), ms(due)));
            queue.insert(records.back().get());
        }
        std::vector<std::uint64_t> order;
        while (!queue.empty()) {
            order.push_back(queue.front()->id.high());
            queue.erase(queue.front());
        }
        CHECK(order == std::vector<std::uint64_t>{3, 1, 4, 0, 2});
    }

    TEST_CASE("the queue agrees with a sorted set whatever is done to it") {
        for (const unsigned seed : {1U, 2U, 3U, 4U}) {
            CAPTURE(seed);
            std::mt19937 random(seed);
            DueQueue queue;
            std::set<StoredTask*, Earlier> model;
            std::vector<TaskRef> records;
            const unsigned spread = seed % 2 ? 50 : 1'000'000;  // many ties, or few
            for (int step = 0; step < 20'000; ++step) {
                const bool grow = random() % 100 < (step / 4'000 % 2 ? 35 : 65);
                if (grow || model.empty()) {
                    const std::int64_t due = seed == 3 ? step : random() % spread;
                    records.push_back(support::task_of(random(), ms(due)));
                    if (!model.insert(records.back().get()).second) continue;
                    if (seed == 4) queue.promise(1);
                    queue.insert(records.back().get());
                } else {
                    auto at = random() % 3
                                  ? model.lower_bound(records[random() % records.size()].get())
                                  : model.begin();
                    if (at == model.end()) at = model.begin();
                    queue.erase(*at);
                    model.erase(at);
                }
                REQUIRE(queue.size() == model.size());
                if (!model.empty()) REQUIRE(queue.front() == *model.begin());
                if (step % 500 == 0) {
                    REQUIRE(all(queue) == std::vector<StoredTask*>(model.begin(), model.end()));
                    if (!model.empty()) REQUIRE(queue.back() == *model.rbegin());
                    check_counts(queue, random);
                }
            }
        }
    }

    TEST_CASE("a walk begins at the first task that is not before its key") {
        DueQueue queue;
        std::vector<TaskRef> records;
        for (std::uint64_t i = 0; i < 1'000; ++i) {
            records.push_back(support::task_of(i, ms(static_cast<std::int64_t>(i / 3) * 10)));
            queue.insert(records.back().get());
        }
        for (std::uint64_t i = 0; i < 1'000; ++i) {
            const auto found = some(queue, {records[i]->due, records[i]->id}, 1);
            REQUIRE(found == std::vector<StoredTask*>{records[i].get()});
        }
        CHECK(some(queue, {ms(1'000'000), TaskId()}, 1).empty());
    }

    TEST_CASE("a walk can begin anywhere, whatever was done to the queue before") {
        for (const unsigned seed : {11U, 12U}) {
            CAPTURE(seed);
            std::mt19937 random(seed);
            DueQueue queue;
            std::set<StoredTask*, Earlier> model;
            std::vector<TaskRef> records;
            for (int step = 0; step < 5'000; ++step) {
                records.push_back(support::task_of(random(), ms(random() % 2'000)));
                if (!model.insert(records.back().get()).second) continue;
                queue.insert(records.back().get());
                if (random() % 2) {
                    queue.erase(*model.begin());
                    model.erase(model.begin());
                }
            }
            for (int look = 0; look < 2'000; ++look) {
                const TaskRef from = support::task_of(random(), ms(random() % 2'100));
                const auto found = some(queue, {from->due, from->id}, 200);
                std::vector<StoredTask*> expected;
                for (auto at = model.lower_bound(from.get());
                     at != model.end() && expected.size() < 200; ++at) {
                    expected.push_back(*at);
                }
                REQUIRE(found == expected);
            }
        }
    }

    TEST_CASE("tasks come out in order, in whichever order they came in") {
        const std::int64_t count = 2'000;
        const std::pair<const char*, std::function<std::int64_t(std::int64_t)>> orders[] = {
            {"ascending", [](std::int64_t i) { return i; }},
            {"descending", [](std::int64_t i) { return -i; }},
            {"equal", [](std::int64_t) { return 7; }},
            {"from both ends", [](std::int64_t i) { return i % 2 ? i : -i; }},
            {"in waves", [](std::int64_t i) { return i % 50; }},
        };
        for (const auto& order : orders) {
            const auto& name = order.first;
            CAPTURE(name);
            DueQueue queue;
            std::vector<TaskRef> records;
            for (std::int64_t i = 0; i < count; ++i) {
                records.push_back(support::task_of(records.size(), ms(order.second(i))));
                queue.insert(records.back().get());
            }
            CHECK(queue.size() == records.size());
            std::sort(records.begin(), records.end(), [](const TaskRef& a, const TaskRef& b) {
                return Earlier()(a.get(), b.get());
            });
            for (const TaskRef& record : records) {
                REQUIRE(queue.front() == record.get());
                queue.erase(queue.front());
            }
            CHECK(queue.empty());
        }
    }

    TEST_CASE("a queue that is filled at once is as one that was filled task by task") {
        for (const std::size_t count : {0U, 1U, 2U, 97U, 9'999U, 30'001U}) {
            CAPTURE(count);
            std::mt19937_64 random(count);
            TaskIndex index;
            std::vector<StoredTask*> records;
            IdSource ids;
            for (std::size_t i = 0; i < count; ++i) {
                const TaskId id = ids.next(TimePoint(milliseconds(1)));
                const TimePoint due(milliseconds(random() % 500));  // many share a moment
                TaskRef record = TaskRef::make(id, due, "{}");
                records.push_back(record.get());
                index.insert(std::move(record));
            }
            std::shuffle(records.begin(), records.end(), random);
            DueQueue whole;
            whole.begin_filling();
            for (StoredTask* record : records) {
                whole.insert(record);
                whole.erase(record);
                whole.insert(record);
            }
            whole.sort();
            DueQueue single;
            for (StoredTask* record : records) {
                single.promise(1);
                single.insert(record);
            }
            CHECK(whole.size() == count);
            CHECK(all(whole) == all(single));
            std::mt19937 moments(1);
            check_counts(whole, moments);
            for (StoredTask* record : records) whole.erase(record);
            CHECK(whole.empty());
        }
    }

    TEST_CASE("a queue that was emptied from its end can be filled again") {
        DueQueue queue;
        std::vector<TaskRef> records;
        for (int round = 0; round < 3; ++round) {
            records.clear();
            for (std::uint64_t i = 0; i < 300; ++i) {
                records.push_back(support::task_of(i, ms(0)));
                queue.insert(records.back().get());
            }
            for (auto at = records.rbegin(); at != records.rend(); ++at) queue.erase(at->get());
            REQUIRE(queue.empty());
            REQUIRE(all(queue).empty());
        }
    }

    TEST_CASE("the index finds what it holds, also among ids that collide") {
        std::mt19937_64 random(7);
        TaskIndex index;
        std::map<std::uint64_t, StoredTask*> model;
        for (int step = 0; step < 50'000; ++step) {
            const std::uint64_t number = random() % 3'000 << 32;  // the same low bits
            const TaskId id = support::id_of(number);
            if (StoredTask* found = index.find(id)) {
                REQUIRE(model.at(number) == found);
                if (random() % 2) {
                    TaskRef other = support::task_of(number, ms(1));
                    model[number] = other.get();
                    index.remove(found);
                    index.insert(std::move(other));
                } else {
                    index.remove(found);
                    model.erase(number);
                }
            } else {
                REQUIRE(model.count(number) == 0);
                TaskRef record = support::task_of(number, ms(0));
                model[number] = record.get();
                index.insert(std::move(record));
            }
            REQUIRE(index.size() == model.size());
        }
        for (const auto& [number, record] : model) {
            REQUIRE(index.find(support::id_of(number)) == record);
        }
    }

    TEST_CASE("the index finds all ids that share a bucket, whichever of them goes first") {
        std::mt19937_64 random(9);
        for (std::uint64_t row = 0; row < 256; ++row) {
            CAPTURE(row);
            TaskIndex index;
            std::vector<TaskId> ids;
            for (std::uint64_t i = 0; i < 40; ++i) ids.emplace_back(i << 16, (i << 16) ^ row);
            for (const TaskId id : ids) index.insert(TaskRef::make(id, ms(0), "{}"));
            std::shuffle(ids.begin(), ids.end(), random);
            while (!ids.empty()) {
                index.remove(index.find(ids.back()));
                REQUIRE(index.find(ids.back()) == nullptr);
                ids.pop_back();
                for (const TaskId id : ids) REQUIRE(index.find(id) != nullptr);
                REQUIRE(index.size() == ids.size());
            }
        }
    }

    TEST_CASE("the index owns its tasks, and gives each up once") {
        const TaskRef erased = support::task_of(1, ms(0));
        const TaskRef replaced = support::task_of(2, ms(0));
        const TaskRef kept = support::task_of(3, ms(0));
        {
            TaskIndex index;
            for (const TaskRef& record : {erased, replaced, kept}) index.insert(record);
            index.remove(erased.get());
            index.remove(replaced.get());
            index.insert(support::task_of(2, ms(1)));
            CHECK(erased->references == 1);
            CHECK(replaced->references == 1);
            CHECK(kept->references == 2);
        }
        CHECK(kept->references == 1);
    }

    TEST_CASE("an empty index holds nothing") {
        TaskIndex index;
        CHECK(index.find(support::id_of(1)) == nullptr);
        index.insert(support::task_of(1, ms(0)));
        CHECK(index.find(support::id_of(1)) != nullptr);
        CHECK(index.size() == 1);
    }

    TEST_CASE("ids rise strictly though the clock stands still or steps back") {
        IdSource ids;
        TaskId last;
        for (int i = 0; i < 20'000; ++i) {
            const TaskId id = ids.next(ms(1'000'000 - i / 5'000 * 100));
            REQUIRE(last < id);
            last = id;
        }
        CHECK(last < ids.next(ms(2'000'000)));
        IdSource restarted;
        restarted.pass(last);
        CHECK(last < restarted.next(ms(5)));
    }

    TEST_CASE("a counter that overflows goes on in the next millisecond") {
        IdSource ids;
        ids.pass(TaskId(std::uint64_t{1'000} << 16 | 0x7FFF, std::uint64_t{1} << 63));
        const TaskId next = ids.next(ms(1'000));
        CHECK(next.time() == ms(1'001));
        CHECK((next.high() & 0xFFFFU) == 0x7000U);
        CHECK(next < ids.next(ms(1'001)));
    }

    TEST_CASE("an id of the same millisecond is passed as well") {
        IdSource ids;
        const TaskId first = ids.next(ms(5));
        const TaskId other(first.high() + 3, first.low());
        ids.pass(other);
        CHECK(other < ids.next(ms(5)));
        CHECK(other < ids.next(ms(0)));
    }

    TEST_CASE("ids made before 1970 are ids, and an older id does not turn them back") {
        IdSource ids;
        const TaskId first = ids.next(ms(-5));
        CHECK(first != TaskId());
        CHECK(first.time() == ms(0));
        const TaskId second = ids.next(ms(9'000));
        ids.pass(first);
        CHECK(second < ids.next(ms(0)));
        CHECK_FALSE(ids.last() < TaskId(second.high(), std::uint64_t{1} << 63));
    }

    TEST_CASE("every id has version and variant in their places, and no two are alike") {
        IdSource ids;
        std::set<TaskId> seen;
        for (int i = 0; i < 10'000; ++i) {
            const TaskId id = ids.next(ms(i / 3));
            REQUIRE((id.high() >> 12 & 0xFU) == 7);
            REQUIRE((id.low() >> 62) == 2);
            REQUIRE(seen.insert(id).second);
        }
    }

    TEST_CASE("two sources at one moment make different ids") {
        IdSource one;
        IdSource other;
        CHECK(one.next(ms(1)).low() != other.next(ms(1)).low());
    }

    TEST_CASE("an id is a UUID of version 7 that tells when it was made") {
        IdSource ids;
        const TaskId id = ids.next(support::at("2026-03-01T12:00:00.123Z"));
        const std::string text = id.str();
        CHECK(text.size() == 36);
        CHECK(text[14] == '7');
        CHECK((text[19] == '8' || text[19] == '9' || text[19] == 'a' || text[19] == 'b'));
        CHECK(id.time() == support::at("2026-03-01T12:00:00.123Z"));
        CHECK(TaskId::parse(text) == id);
        for (const char* bad :
             {"", "01a20cdd-e917-7205-81e5-d8b16083704", "01a20cdde917-7205-81e5-d8b1608370467",
              "01a20cdd-e917-7205-81e5-d8b16083704g"}) {
            CHECK_FALSE(TaskId::parse(bad));
        }
    }

    TEST_CASE("an id reads as itself, in either case of letters, and sorts as its text does") {
        std::mt19937_64 random(3);
        TaskId last;
        for (int i = 0; i < 2'000; ++i) {
            const TaskId id(random(), random());
            std::string text = id.str();
            REQUIRE(TaskId::parse(text) == id);
            REQUIRE((last < id) == (last.str() < text));
            for (char& c : text) {
                if (c >= 'a' && c <= 'f') c = static_cast<char>(c - 'a' + 'A');
            }
            REQUIRE(TaskId::parse(text) == id);
            last = id;
        }
        CHECK(TaskId().str() == "00000000-0000-0000-0000-000000000000");
    }

    TEST_CASE("a text with a wrong character anywhere is no id") {
        const std::string good = "01a20cdd-e917-7205-81e5-d8b160837046";
        REQUIRE(TaskId::parse(good));
        for (std::size_t i = 0; i < good.size(); ++i) {
            for (const char c : {'g', ' ', '\0', good[i] == '-' ? '0' : '-'}) {
                std::string bad = good;
                bad[i] = c;
                CAPTURE(bad);
                CHECK_FALSE(TaskId::parse(bad));
            }
        }
        for (const std::string& bad : {good + "0", ' ' + good, good + '\n', '{' + good + '}'}) {
            CAPTURE(bad);
            CHECK_FALSE(TaskId::parse(bad));
        }
    }

    TEST_CASE("the index grows and shrinks without losing a task") {
        TaskIndex index;
        IdSource ids;
        std::vector<TaskId> all;
        for (int i = 0; i < 200'000; ++i) {
            all.push_back(ids.next(ms(i / 10)));
            index.insert(TaskRef::make(all.back(), ms(0), "{}"));
        }
        std::shuffle(all.begin(), all.end(), std::mt19937(1));
        while (!all.empty()) {
            StoredTask* const task = index.find(all.back());
            REQUIRE(task);
            CHECK(index.remove(task)->id == all.back());
            all.pop_back();
            if (all.size() % 20'000 == 0) {
                for (const TaskId id : all) REQUIRE(index.find(id));
            }
        }
        CHECK(index.size() == 0);
    }

    TEST_CASE("a place that was promised is there, whatever else comes and goes") {
        for (const unsigned seed : {1U, 2U, 3U}) {
            CAPTURE(seed);
            std::mt19937 random(seed);
            DueQueue queue;
            std::set<StoredTask*, Earlier> model;
            std::vector<TaskRef> tasks;
            for (int round = 0; round < 200; ++round) {
                const std::size_t count = random() % 300;
                queue.promise(count);
                for (std::size_t i = 0; i < count; ++i) {
                    tasks.push_back(support::task_of(tasks.size(), ms(random() % 1'000)));
                    queue.insert(tasks.back().get());
                    model.insert(tasks.back().get());
                }
                for (std::size_t i = 0; i < count && random() % 8 && !model.empty(); ++i) {
                    queue.erase(*model.begin());
                    model.erase(model.begin());
                }
                REQUIRE(all(queue) == std::vector<StoredTask*>(model.begin(), model.end()));
            }
        }
    }
}

}  // namespace queue_test
