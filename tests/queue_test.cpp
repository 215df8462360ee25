// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <random>

using namespace scheduler;
using namespace scheduler::detail;

namespace {

TimePoint ms(std::int64_t count) {
    return TimePoint(milliseconds(count));
}

std::vector<Record*> all(const DueQueue& queue) {
    std::vector<Record*> records;
    queue.walk([&](Record* record) {
        records.push_back(record);
        return true;
    });
    return records;
}

struct Earlier {
    bool operator()(const Record* a, const Record* b) const {
        return DueKey{a->due, a->id} < DueKey{b->due, b->id};
    }
};

}  // namespace

TEST_SUITE("queue") {
    TEST_CASE("tasks come earliest first, and ties in order of arrival") {
        DueQueue queue;
        std::vector<RecordRef> records;
        for (const std::int64_t due : {5, 3, 5, 1, 3}) {
            records.push_back(support::record_of(records.size(), ms(due)));
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
            std::set<Record*, Earlier> model;
            std::vector<RecordRef> records;
            const unsigned spread = seed % 2 ? 50 : 1'000'000;  // many ties, or few
            for (int step = 0; step < 20'000; ++step) {
                const bool grow = random() % 100 < (step / 4'000 % 2 ? 35 : 65);
                if (grow || model.empty()) {
                    const std::int64_t due = seed == 3 ? step : random() % spread;
                    records.push_back(support::record_of(random(), ms(due)));
                    if (!model.insert(records.back().get()).second) continue;
                    if (seed == 4) queue.reserve(1);
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
                    REQUIRE(all(queue) == std::vector<Record*>(model.begin(), model.end()));
                }
            }
        }
    }

    TEST_CASE("a walk begins at the first task that is not before its key") {
        DueQueue queue;
        std::vector<RecordRef> records;
        for (std::uint64_t i = 0; i < 1'000; ++i) {
            records.push_back(support::record_of(i, ms(static_cast<std::int64_t>(i / 3) * 10)));
            queue.insert(records.back().get());
        }
        for (std::uint64_t i = 0; i < 1'000; ++i) {
            Record* first = nullptr;
            queue.walk_from({records[i]->due, records[i]->id}, [&](Record* record) {
                first = record;
                return false;
            });
            REQUIRE(first == records[i].get());
        }
        bool any = false;
        queue.walk_from({ms(1'000'000), TaskId()}, [&](Record*) { return any = true; });
        CHECK_FALSE(any);
    }

    TEST_CASE("the index finds what it holds, also among ids that collide") {
        std::mt19937_64 random(7);
        TaskIndex index;
        std::map<std::uint64_t, Record*> model;
        for (int step = 0; step < 50'000; ++step) {
            const std::uint64_t number = random() % 3'000 << 32;  // the same low bits
            const TaskId id = support::id_of(number);
            if (Record* found = index.find(id)) {
                REQUIRE(model.at(number) == found);
                if (random() % 2) {
                    RecordRef other = support::record_of(number, ms(1));
                    model[number] = other.get();
                    index.replace(std::move(other));
                } else {
                    index.erase(id);
                    model.erase(number);
                }
            } else {
                REQUIRE(model.count(number) == 0);
                RecordRef record = support::record_of(number, ms(0));
                model[number] = record.get();
                index.insert(std::move(record));
            }
            REQUIRE(index.size() == model.size());
        }
        for (const auto& [number, record] : model) {
            REQUIRE(index.find(support::id_of(number)) == record);
        }
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

    TEST_CASE("the history keeps its order and finds a place by seq") {
        History history;
        std::vector<RecordRef> records;
        for (std::uint64_t seq = 0; seq < 1'000; seq += 2) {  // every second place is empty
            records.push_back(support::record_of(seq, ms(0)));
            records.back()->seq = seq;
            history.reserve(1);
            history.append(records.back().get());
        }
        CHECK(history.next_seq() == 999);
        CHECK(history.index_of(100) == 50);
        CHECK(history.index_of(101) == 51);
        for (int i = 0; i < 300; ++i) history.drop_oldest();
        CHECK(history.first_seq() == 600);
        CHECK(history.size() == 200);
        CHECK(history.at(0)->seq == 600);
        history.erase(10, 20);
        CHECK(history.size() == 190);
        CHECK(history.at(10)->seq == 640);
        history.erase(0, history.size());
        CHECK(history.empty());
        CHECK(history.first_seq() == 999);
    }
}
