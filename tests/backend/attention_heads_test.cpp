// How heads are dealt to the threads of the CPU.

#include <algorithm>
#include <cstdlib>
#include <vector>

#include <catch2/catch.hpp>

#include <blinkbert/backend/cpu.hpp>

namespace blinkbert::test {
namespace {

TEST_CASE("heads: every one in one part, the parts in order and of about the same cost") {
  for (const std::vector<int>& lengths : std::vector<std::vector<int>>{{30},
                                                                       {30, 30, 30, 30},
                                                                       {1, 2, 3, 5, 8, 13, 21, 30},
                                                                       {30, 21, 13, 8, 5, 3, 2, 1},
                                                                       {0, 0, 30, 0},
                                                                       {0},
                                                                       {7, 0, 9}}) {
    const View<const int, 1> view(lengths.data(), {static_cast<int>(lengths.size())});
    const int most = *std::ranges::max_element(lengths) + 1;
    for (const int H : {1, 3, 8}) {
      int all = 0;
      for (const int length : lengths) all += H * (length + 1);
      for (const int chunks : {1, 2, 3, 8}) {
        INFO(lengths.size() << " sequences, " << H << " heads, " << chunks << " parts");
        CHECK(cpu_detail::first_head(view, H, 0, chunks) == 0);
        CHECK(cpu_detail::first_head(view, H, chunks, chunks) == static_cast<int>(lengths.size()) * H);
        for (int chunk = 0; chunk < chunks; ++chunk) {
          const int first = cpu_detail::first_head(view, H, chunk, chunks);
          const int last = cpu_detail::first_head(view, H, chunk + 1, chunks);
          CHECK(first <= last);
          int cost = 0;
          for (int item = first; item < last; ++item) cost += lengths[static_cast<std::size_t>(item / H)] + 1;
          CHECK(std::abs(cost * chunks - all) <= most * chunks);
        }
      }
    }
  }
}

}  // namespace
}  // namespace blinkbert::test
