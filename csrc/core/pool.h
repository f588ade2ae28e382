// A small pool of threads: started on first use, asleep between calls, forgotten by a forked child.
#pragma once

#include <cstdint>
#include <functional>

namespace ncfast {

// Calls task(0) .. task(tasks - 1), each once, on up to `threads` threads, the caller included.
// Which thread takes which task is left open: results must not depend on it. An exception that a
// task throws comes out here, once no thread works on a task any more; the remaining tasks are not
// begun. A second caller, while the pool is busy, does its tasks alone.
void parallel_for(std::int64_t tasks, int threads, const std::function<void(std::int64_t)>& task);

}  // namespace ncfast
