// A pool of threads: it starts on first use and sleeps between calls; a forked child starts its
// own.
#pragma once

#include <cstdint>
#include <functional>

namespace ncfast {

// Calls task(0) .. task(tasks - 1), each once, on at most `threads` threads, the caller included.
//
// Any thread may run any task, so results must not depend on the choice. If a task throws, no
// further task begins, and the exception reaches the caller after the running tasks have ended. A
// caller that finds the pool busy runs all of its tasks itself.
void parallel_for(std::int64_t tasks, int threads, const std::function<void(std::int64_t)>& task);

}  // namespace ncfast
