// The pool of threads behind parallel_for.
#include "core/pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace ncfast {
namespace {

// How often a helper yields before it sleeps. The next section of the same call follows at once,
// and waking a thread takes as long as reading a megabyte.
constexpr int kTurns = 100;

class Pool {
public:
    bool try_run(std::int64_t tasks, int threads, const std::function<void(std::int64_t)>& task) {
        std::unique_lock<std::mutex> caller(busy_, std::try_to_lock);
        if (!caller.owns_lock()) return false;
        const int helpers = start_helpers(static_cast<int>(std::min<std::int64_t>(tasks, threads)) - 1);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            task_ = &task;
            tasks_ = tasks;
            next_.store(0);
            places_ = helpers;
            error_ = nullptr;
        }
        wake_.notify_all();
        work();
        std::unique_lock<std::mutex> lock(mutex_);
        places_ = 0;  // a helper that wakes only now has nothing to do
        done_.wait(lock, [this] { return working_ == 0; });
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
        return true;
    }

private:
    // Returns the number of helpers, which is below `wanted` if the system refuses more threads.
    int start_helpers(int wanted) {
        try {
            for (; started_ < wanted; ++started_) std::thread([this] { help(); }).detach();
        } catch (const std::exception&) {  // std::system_error, or std::bad_alloc
        }
        return std::min(started_, wanted);
    }

    void help() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return places_.load() > 0; });
            --places_;
            ++working_;
            lock.unlock();
            work();
            lock.lock();
            if (--working_ == 0) done_.notify_one();
            lock.unlock();
            for (int turn = 0; turn < kTurns && places_.load() == 0; ++turn)
                std::this_thread::yield();
            lock.lock();
        }
    }

    // Runs tasks until none is left. Keeps the first exception for the caller, skips later tasks.
    void work() noexcept {
        try {
            for (std::int64_t i = next_.fetch_add(1); i < tasks_; i = next_.fetch_add(1)) (*task_)(i);
        } catch (...) {
            next_.store(tasks_);
            std::lock_guard<std::mutex> lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
    }

    std::mutex busy_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    int started_ = 0;
    int working_ = 0;
    std::int64_t tasks_ = 0;
    std::atomic<int> places_{0};  // changed with the mutex held
    std::atomic<std::int64_t> next_{0};
    const std::function<void(std::int64_t)>* task_ = nullptr;
    std::exception_ptr error_;  // protected by the mutex
};

// The pool is never destroyed: its threads may outlive main.
std::atomic<Pool*> the_pool{nullptr};

// Drops the pool in a forked child, which has none of the parent's threads and whose copies of the
// mutexes may be locked for ever. The child starts a new pool when it needs one.
void forget_pool() { the_pool.store(nullptr); }

Pool& pool() {
#if !defined(_WIN32)
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
    (void)registered;
#endif
    Pool* current = the_pool.load();
    if (current != nullptr) return *current;
    Pool* fresh = new Pool;
    if (the_pool.compare_exchange_strong(current, fresh)) return *fresh;
    delete fresh;
    return *current;
}

}  // namespace

void parallel_for(std::int64_t tasks, int threads, const std::function<void(std::int64_t)>& task) {
    if (tasks > 1 && threads > 1 && pool().try_run(tasks, threads, task)) return;
    for (std::int64_t i = 0; i < tasks; ++i) task(i);
}

}  // namespace ncfast
