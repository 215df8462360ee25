// SPDX-License-Identifier: MIT
//
// The journal in PostgreSQL, against a server that tests/postgres/instance.py has started:
//
//     tests/postgres/instance.py run -- build/tests/postgres_test
#include "journal_contract.hpp"

#include "postgres/postgres_journal.hpp"

namespace postgres_test {

using namespace scheduler;

namespace {

// A schema of its own.
std::string make_schema() {
    static std::atomic<int> number{0};
    return "test \"" + std::to_string(number++) + "\"";
}

class PostgresPlace : public contract::Place {
public:
    std::unique_ptr<Journal> open() override { return std::make_unique<PostgresJournal>(options_); }

private:
    PostgresOptions options_ = [] {
        PostgresOptions options;
        options.schema = make_schema();

        return options;
    }();
};

}  // namespace

TEST_SUITE("postgres") {
    TEST_CASE("a journal in PostgreSQL keeps what a journal promises") {
        contract::check_journal([] { return std::make_unique<PostgresPlace>(); });
    }
}

}  // namespace postgres_test
