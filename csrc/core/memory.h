// Allocates memory: vectors aligned to cache lines, and huge pages for large blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ncfast {

// Aligns a vector to a cache line: a load across two lines costs twice.
template <class T>
struct LineAllocator {
    using value_type = T;
    static constexpr std::align_val_t kLine{64};

    LineAllocator() = default;
    template <class U>
    LineAllocator(const LineAllocator<U>&) {}
    T* allocate(std::size_t count) {
        return static_cast<T*>(::operator new(count * sizeof(T), kLine));
    }
    void deallocate(T* block, std::size_t) { ::operator delete(block, kLine); }
    bool operator==(const LineAllocator&) const { return true; }
    bool operator!=(const LineAllocator&) const { return false; }
};

template <class T>
using LineVector = std::vector<T, LineAllocator<T>>;

// glibc's malloc reuses a freed block up to this size. The system maps a larger one anew each time,
// and the first write to each of its pages is a page fault.
constexpr std::size_t kRecycledBytes = std::size_t{32} << 20;

// Asks the system for huge pages inside the block: a page fault per 4 KiB takes longer than the
// writing. A system without huge pages ignores it.
inline void prefer_huge_pages(void* block, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t kPage = std::uintptr_t{1} << 21;
    const auto start = reinterpret_cast<std::uintptr_t>(block);
    const std::uintptr_t first = (start + kPage - 1) / kPage * kPage;
    const std::uintptr_t last = (start + bytes) / kPage * kPage;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)block, (void)bytes;
#endif
}

}  // namespace ncfast
