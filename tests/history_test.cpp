// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <deque>
#include <random>

namespace history_test {

using namespace scheduler;
using namespace scheduler::detail;

namespace {

void erase(History& history, std::size_t first, std::size_t last) {
    std::vector<StoredTask*> expected;
    for (std::size_t i = first; i < last; ++i) expected.push_back(history.at(i));
    std::vector<StoredTask*> taken(last - first);
    history.take(first, last - first, taken.data());
    REQUIRE(taken == expected);
}

// A history with the records that it points to.
struct Kept {
    void append(std::uint64_t seq) {
        records.push_back(support::task_of(seq, TimePoint()));
        records.back()->seq = seq;
        history.append(records.back().get());
    }
    std::vector<std::uint64_t> seqs() const {
        std::vector<std::uint64_t> all;
        for (std::size_t i = 0; i < history.size(); ++i) all.push_back(history.at(i)->seq);
        return all;
    }
    std::vector<TaskRef> records;
    History history;
};

}  // namespace

TEST_SUITE("history") {
    TEST_CASE("a history in which nothing has happened is empty and begins at 0") {
        const History history;
        CHECK(history.empty());
        CHECK(history.next_seq() == 0);
        CHECK(history.first_seq() == 0);
        CHECK(history.index_of(0) == 0);
        CHECK(history.index_of(99) == 0);
    }

    TEST_CASE("the history keeps its order and finds a place by seq") {
        History history;
        std::vector<TaskRef> records;
        for (std::uint64_t seq = 0; seq < 1'000; seq += 2) {  // every second place is empty
            records.push_back(support::task_of(seq, TimePoint()));
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
        erase(history, 10, 20);
        CHECK(history.size() == 190);
        CHECK(history.at(10)->seq == 640);
        erase(history, 0, history.size());
        CHECK(history.empty());
        CHECK(history.first_seq() == 999);
    }

    TEST_CASE("a cursor before the oldest event finds the oldest, and one behind the newest none") {
        Kept kept;
        for (const std::uint64_t seq : {10U, 20U, 30U}) kept.append(seq);
        CHECK(kept.history.index_of(0) == 0);
        CHECK(kept.history.index_of(10) == 0);
        CHECK(kept.history.index_of(11) == 1);
        CHECK(kept.history.index_of(30) == 2);
        CHECK(kept.history.index_of(kept.history.next_seq()) == 3);
        CHECK(kept.history.index_of(static_cast<std::uint64_t>(-1)) == 3);
    }

    TEST_CASE("a place in the order is never given twice, whatever was forgotten") {
        Kept kept;
        for (std::uint64_t seq = 0; seq < 5; ++seq) kept.append(seq);
        erase(kept.history, 0, 5);
        CHECK(kept.history.empty());
        CHECK(kept.history.next_seq() == 5);
        kept.history.skip_to(3);
        CHECK(kept.history.next_seq() == 5);
        kept.history.skip_to(8);
        CHECK(kept.history.next_seq() == 8);
        CHECK(kept.history.first_seq() == 8);
        kept.append(8);
        CHECK(kept.history.first_seq() == 8);
        CHECK(kept.history.next_seq() == 9);
    }

    TEST_CASE("forgetting a range leaves the events on both sides of it") {
        Kept kept;
        for (std::uint64_t seq = 0; seq < 10; ++seq) kept.append(seq);
        kept.history.drop_oldest();
        erase(kept.history, 2, 5);  // seq 3, 4 and 5
        CHECK(kept.seqs() == std::vector<std::uint64_t>{1, 2, 6, 7, 8, 9});
        erase(kept.history, 3, 3);
        CHECK(kept.history.size() == 6);
        CHECK(kept.history.index_of(4) == 2);
    }

    TEST_CASE("an event can be appended to a history that was trimmed to nothing") {
        Kept kept;
        for (std::uint64_t seq = 0; seq < 3; ++seq) {
            kept.append(seq);
            kept.history.drop_oldest();
            CHECK(kept.history.empty());
            CHECK(kept.history.first_seq() == seq + 1);
        }
        kept.append(3);
        CHECK(kept.seqs() == std::vector<std::uint64_t>{3});
        CHECK(kept.history.oldest()->seq == 3);
    }

    TEST_CASE("a trimmed history reads the same at every length") {
        for (std::uint64_t length = 1; length <= 40; ++length) {
            CAPTURE(length);
            Kept kept;
            for (std::uint64_t seq = 0; seq < 200; ++seq) {
                kept.history.reserve(1);
                kept.append(seq);
                if (kept.history.size() > length) kept.history.drop_oldest();
                REQUIRE(kept.history.size() == std::min(length, seq + 1));
                REQUIRE(kept.history.first_seq() == seq + 1 - kept.history.size());
                REQUIRE(kept.history.at(kept.history.size() - 1)->seq == seq);
            }
        }
    }

    TEST_CASE("the history agrees with a plain list whatever is done to it") {
        for (const unsigned seed : {1U, 2U, 3U}) {
            CAPTURE(seed);
            std::mt19937 random(seed);
            Kept kept;
            std::deque<std::uint64_t> model;
            for (int step = 0; step < 5'000; ++step) {
                const auto choice = random() % 20;
                if (choice < 11) {
                    kept.append(kept.history.next_seq() + random() % 3);
                    model.push_back(kept.history.next_seq() - 1);
                } else if (choice < 18 && !model.empty()) {
                    kept.history.drop_oldest();
                    model.pop_front();
                } else if (!model.empty()) {
                    const std::size_t first = random() % model.size();
                    const std::size_t last =
                        first + random() % std::min<std::size_t>(model.size() - first + 1, 10);
                    erase(kept.history, first, last);
                    model.erase(model.begin() + static_cast<std::ptrdiff_t>(first),
                                model.begin() + static_cast<std::ptrdiff_t>(last));
                }
                REQUIRE(kept.history.size() == model.size());
                REQUIRE(kept.history.bytes() == 2 * model.size());  // "{}" each
                const std::uint64_t wanted = random() % (kept.history.next_seq() + 2);
                const auto found = std::lower_bound(model.begin(), model.end(), wanted);
                REQUIRE(kept.history.index_of(wanted) ==
                        static_cast<std::size_t>(found - model.begin()));
                if (step % 100 == 0) {
                    REQUIRE(kept.seqs() == std::vector<std::uint64_t>(model.begin(), model.end()));
                }
            }
        }
    }
}

}  // namespace history_test
