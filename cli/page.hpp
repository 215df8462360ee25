// SPDX-License-Identifier: MIT
//
// The page that the binary shows at `/`.  Meson makes a source of the files in page/ and defines
// TASK_SCHEDULER_PAGE; a binary that is compiled without Meson has no page.

#pragma once

#include <string>

namespace cli {

#ifdef TASK_SCHEDULER_PAGE

extern const unsigned char page_text[];
extern const unsigned long page_bytes;

inline std::string page() {
    return {page_text, page_text + page_bytes};
}

#else

inline std::string page() {
    return {};
}

#endif

}  // namespace cli
