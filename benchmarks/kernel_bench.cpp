// Times the ops of the CUDA backend one by one, at the sizes of a training step of the published model.
//   kernel_bench                      all ops in bf16, the most telling ones first
//   kernel_bench --dtype fp32 --filter attention
//
// A case is a captured graph of 20 launches that go through copies of the op's buffers, as many as make 256 MB together, so
// that nothing is in a cache that would not be there within a step; ops with less than .6 MB take 400 copies, and what they
// read may be cached (column buffers_mb). Graphs are replayed one behind the other, with a CUDA event between two of them: a
// time is that between two events, divided by 20.
//   bytes    that must move, each tensor once; what an op reads twice or keeps in its workspace is not counted
//   flops    a multiplication and an addition for each product of a matrix product or of attention
//   % copy   bytes per second over those of copies within the card (read and written), measured in the same minute
// Rows are added to benchmarks/results/<card>/kernels.csv one by one; plans.json beside it says which way cuBLASLt multiplies
// and whether its epilogues were the faster ones. Without a card: "skipped: why", exit code 77.

#include <array>
#include <cctype>
#include <cstdio>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <blinkbert/io/plans_file.hpp>

#include "../examples/command_line.hpp"
#include "card.hpp"
#include "kernel_cases/attention.hpp"
#include "kernel_cases/edges.hpp"
#include "kernel_cases/norms.hpp"
#include "kernel_cases/optimizer.hpp"
#include "kernel_cases/products.hpp"

namespace benchmarks {
namespace {

struct KernelFlags {
  std::string dtype = "bf16", filter, commit;
  std::filesystem::path results = "benchmarks/results";
  int repetitions = 50;
  double warmup = 3, minutes = 8.5;
};

constexpr int launches = 20, most_copies = 400;
constexpr double least_bytes = 256e6;

/// All cases, the most telling ones first.
template <class Device>
Cases<Device> all_cases(const Device& device, bool is_strict_fp32) {
  Cases<Device> cases;
  add_square_product(cases, is_strict_fp32 ? 4096 : 8192);
  for (const int T : {30720, 65536, 1920}) add_products(cases, T);
  for (const Sequences of :
       {Sequences{1024, 30}, Sequences{1024, 64}, Sequences{64, 30}, Sequences{256, 128}, Sequences{64, 512}}) {
    add_attention(cases, of);
  }
  for (const int T : {30720, 61440}) add_norms(cases, T);
  add_optimizer(cases);
  for (const Sequences of : {Sequences{1024, 30}, Sequences{1024, 64}}) {
    add_gathered_attention(cases, of);
    add_edges(cases, of);
    if (fuses_narrow_block(device, N, H, head_width(N, H), of.L)) add_narrow_block(cases, of);
  }
  return cases;
}

/// What was measured of a case; times in us.
struct Times {
  double median, lower_quartile, upper_quartile, buffers_mb;
};

template <class Device>
Times time_case(Device& device, Buffers<Device>& buffers, const Case<Device>& one, int repetitions) {
  using Issue = typename Case<Device>::Issue;
  buffers.restart();
  std::vector<Issue> copies{one.make(buffers)};
  const double bytes = static_cast<double>(buffers.bytes());
  int count = static_cast<int>(std::min(std::ceil(least_bytes / bytes), 1.0 * most_copies));
  if (count > launches) count = (count + launches - 1) / launches * launches;
  while (static_cast<int>(copies.size()) < count) copies.push_back(one.make(buffers));
  for (const Issue& issue : copies) issue(device);  // workspace and plans are there when graphs are captured
  device.wait();

  std::vector<typename Device::Graph> graphs;
  for (int first = 0; first < count; first += launches) {
    graphs.push_back(device.capture([&] {
      for (int i = 0; i < launches; ++i) copies[static_cast<std::size_t>((first + i) % count)](device);
    }));
  }
  constexpr int warmup = 3;
  Stopwatch watch(repetitions + warmup + 1);
  for (int i = 0; i < repetitions + warmup; ++i) {
    watch.mark(device.stream());
    device.replay(graphs[static_cast<std::size_t>(i) % graphs.size()]);
  }
  watch.mark(device.stream());
  std::vector<double> us = watch.ms();
  us.erase(us.begin(), us.begin() + warmup);
  for (double& value : us) value *= 1e3 / launches;
  return {.median = quantile(us, 0.5),
          .lower_quartile = quantile(us, 0.25),
          .upper_quartile = quantile(us, 0.75),
          .buffers_mb = count * bytes / 1e6};
}

/// The commit of the sources in the current folder, with + where files differ from it; empty where git does not know.
std::string commit_here() {
  const auto output = [](const char* command) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command, "r"), pclose);
    std::string all;
    std::array<char, 256> part{};
    while (pipe && std::fgets(part.data(), static_cast<int>(part.size()), pipe.get()) != nullptr) all += part.data();
    return all;
  };
  std::string commit = output("git rev-parse --short HEAD 2>/dev/null");
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back()))) commit.pop_back();
  const bool is_changed = !commit.empty() && !output("git status --porcelain --untracked-files=no 2>/dev/null").empty();
  return is_changed ? commit + "+" : commit;
}

/// The name of a card as a folder: lower case, - between words.
std::string folder_name(const std::string& name) {
  std::string folder;
  for (const unsigned char c : name) {
    if (std::isalnum(c) != 0) {
      folder += static_cast<char>(std::tolower(c));
    } else if (!folder.empty() && folder.back() != '-') {
      folder += '-';
    }
  }
  while (!folder.empty() && folder.back() == '-') folder.pop_back();
  return folder;
}

template <class Device>
void run_kernel_bench(const KernelFlags& flags, const std::string& command) {
  const double begin = now_in_ms();
  Device device;
  if (flags.dtype == "tf32") device.use_tf32();
  const std::string card = card_name();
  const std::filesystem::path folder = flags.results / folder_name(card);
  std::filesystem::create_directories(folder);
  const bool is_new = !std::filesystem::exists(folder / "kernels.csv");
  std::ofstream csv(folder / "kernels.csv", std::ios::app);
  if (is_new) {
    csv << "commit,device,dtype,op,shape,us,lower_quartile,upper_quartile,repetitions,launches,buffers_mb,bytes,"
           "gbyte_per_second,percent_of_copy,flop,tflop_per_second,copy_gbyte_per_second,command\n";
  }
  const std::string commit = flags.commit.empty() ? commit_here() : flags.commit;

  Buffers<Device> buffers(device);
  Cases<Device> cases = all_cases(device, flags.dtype == "fp32");
  std::erase_if(cases, [&](const auto& one) { return one.op.find(flags.filter) == std::string::npos; });
  if (cases.empty()) throw InputError("no op is called anything with \"" + flags.filter + "\"");
  std::cout << card << ", " << flags.dtype << ", " << launches << " launches a graph, " << flags.repetitions
            << " repetitions, median and quartiles\n";
  while (now_in_ms() < begin + 1e3 * flags.warmup) measure_copy_rate(device);  // clocks as under load

  double copy_rate = 0, copy_measured = 0;
  struct Sum {
    int T = 0, count = 0;
    double flops = 0, us = 0;
  };
  std::vector<Sum> sums;
  std::size_t done = 0;
  for (const Case<Device>& one : cases) {
    if (now_in_ms() - begin > 6e4 * flags.minutes) break;
    if (copy_rate == 0 || now_in_ms() - copy_measured > 3e4) {
      copy_rate = measure_copy_rate(device);
      copy_measured = now_in_ms();
      std::cout << std::fixed << std::setprecision(0) << "copies: " << copy_rate << " GB/s, read and written\n";
    }
    const Times times = time_case(device, buffers, one, flags.repetitions);
    ++done;
    const double rate = one.bytes / (1e3 * times.median), percent = 100 * rate / copy_rate,
                 tflops = one.flops / (1e6 * times.median);
    std::cout << std::left << std::setw(28) << one.op << std::setw(44) << one.shape << std::right
              << std::setprecision(2) << std::setw(10) << times.median << " us  [" << times.lower_quartile << ", "
              << times.upper_quartile << "]" << std::setprecision(0) << std::setw(7) << rate << " GB/s" << std::setw(5)
              << percent << " % copy";
    if (one.flops > 0) std::cout << std::setprecision(1) << std::setw(8) << tflops << " TFLOP/s";
    std::cout << std::endl;
    csv << std::defaultfloat << std::setprecision(6) << (commit.empty() ? "unknown" : commit) << ",\"" << card << "\","
        << flags.dtype << ',' << one.op << ",\"" << one.shape << "\"," << times.median << ',' << times.lower_quartile
        << ',' << times.upper_quartile << ',' << flags.repetitions << ',' << launches << ',' << times.buffers_mb << ','
        << std::setprecision(12) << one.bytes << ',' << std::setprecision(6) << rate << ',' << percent << ','
        << std::setprecision(12) << one.flops << ',' << std::setprecision(6) << tflops << ',' << copy_rate << ",\""
        << command << "\"\n"
        << std::flush;
    if (one.products_of == 0) continue;
    if (sums.empty() || sums.back().T != one.products_of) sums.push_back({.T = one.products_of});
    sums.back().flops += one.flops;
    sums.back().us += times.median;
    ++sums.back().count;
  }
  for (const Sum& sum : sums) {
    std::cout << std::fixed << std::setprecision(0) << "all " << sum.count << " products at T " << sum.T << ": "
              << sum.flops / (1e6 * sum.us) << " TFLOP/s\n";
  }
  if (done < cases.size()) {
    std::cout << "out of time: " << cases.size() - done << " cases not measured, from " << cases[done].op << ", "
              << cases[done].shape << " on\n";
  }
  if (!csv) throw RunError("cannot write " + (folder / "kernels.csv").string());
  const auto& products = matrix_products(device);
  write_plans(folder / "plans.json", {.device = products.device_and_library(), .plans = products.plans()});
  std::cout << folder.string() << ": kernels.csv, plans.json\n";
}

}  // namespace
}  // namespace benchmarks

int main(int argc, char** argv) {
  using namespace benchmarks;
  KernelFlags flags;
  CLI::App app("Times the ops of the CUDA backend one by one", "kernel_bench");
  app.add_option("--dtype", flags.dtype, "Numbers of the ops")
      ->check(CLI::IsMember(std::vector<std::string>{"bf16", "tf32", "fp32"}))
      ->capture_default_str();
  app.add_option("--filter", flags.filter, "Only ops whose name contains this");
  app.add_option("--repetitions", flags.repetitions, "Replays that count")
      ->check(CLI::Range(30, 10000))
      ->capture_default_str();
  app.add_option("--warmup", flags.warmup, "Seconds before the first of them")->capture_default_str();
  app.add_option("--minutes", flags.minutes, "No case begins later")->capture_default_str();
  app.add_option("--results", flags.results, "The card's folder is in there")->capture_default_str();
  app.add_option("--commit", flags.commit, "Of the sources, where git does not know it");
  return programs::run_program(app, argc, argv, [&]() -> int {
    if (const std::string obstacle = cuda_obstacle(); !obstacle.empty()) {
      std::cout << "skipped: " << obstacle << '\n';
      return 77;
    }
    std::string command = "kernel_bench";
    for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
    if (flags.dtype == "bf16") {
      run_kernel_bench<Cuda<bf16>>(flags, command);
    } else {
      run_kernel_bench<Cuda<float>>(flags, command);
    }
    return programs::good;
  });
}
