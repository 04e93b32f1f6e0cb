// Reads the sources and fails on an arrow that does not point down, on a library in the wrong place, on a forbidden
// word. The rules are docs/architecture.md's; the checker itself is tested on made-up sources.

#include <algorithm>
#include <blinkbert/version.hpp>
#include <catch2/catch.hpp>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

/// Path relative to the project's root -> contents.
using Sources = std::map<std::string, std::string>;

bool starts_with_any(std::string_view text, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const auto& prefix) { return text.starts_with(prefix); });
}

/// The code without comments and without what stands inside string and character literals; lines stay lines.
std::string without_comments(const std::string& code) {
  const std::string_view all = code;
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  std::string out;
  std::size_t at = 0;
  const auto skip_to = [&](std::size_t end) {
    end = std::min(end, all.size());
    for (; at < end; ++at) {
      if (all[at] == '\n') out += '\n';
    }
  };
  // The place behind the next `closing`; a search that fails gives the end of the file.
  const auto behind = [&](std::string_view closing, std::size_t from) {
    const std::size_t found = all.find(closing, from);
    return found == std::string_view::npos ? all.size() : found + closing.size();
  };
  while (at < all.size()) {
    const std::string_view rest = all.substr(at);
    const bool follows_word = at > 0 && is_word(all[at - 1]);
    if (rest.starts_with("//")) {
      skip_to(behind("\n", at));
    } else if (rest.starts_with("/*")) {
      skip_to(behind("*/", at + 2));
    } else if (rest.starts_with("R\"") && !follows_word) {
      const std::size_t open = all.find('(', at);
      if (open == std::string_view::npos) return out;
      skip_to(behind(")" + std::string(all.substr(at + 2, open - at - 2)) + "\"", open));
    } else if (rest[0] == '"' || (rest[0] == '\'' && !follows_word)) {  // 1'000 opens no character literal
      std::size_t end = at + 1;
      while (end < all.size() && all[end] != rest[0] && all[end] != '\n') end += all[end] == '\\' ? 2 : 1;
      skip_to(end + 1);
    } else {
      out += all[at++];
    }
  }
  return out;
}

/// What a file includes, as written between the brackets or quotes.
std::vector<std::string> includes_of(const std::string& code) {
  static const std::regex include(R"(^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"])", std::regex::multiline);
  std::vector<std::string> names;
  for (std::sregex_iterator match(code.begin(), code.end(), include), end; match != end; ++match) {
    names.push_back((*match)[1]);
  }
  return names;
}

/// The floor of a header, by its path below include/ or kernels/, and the floors it may include. The first row whose
/// prefix fits counts.
struct Floor {
  std::string prefix;
  std::vector<std::string> may_include;  // prefixes
};

const std::vector<Floor>& floors() {
  static const std::vector<Floor> table = [] {
    std::vector<Floor> rows;
    std::vector<std::string> below{"blinkbert/version.hpp"};
    const auto floor = [&](const std::vector<std::string>& prefixes) {
      below.insert(below.end(), prefixes.begin(), prefixes.end());
      for (const auto& prefix : prefixes) rows.push_back({prefix, below});
    };
    const auto beside = [&](const std::vector<std::string>& prefixes, const std::vector<std::string>& also = {}) {
      std::vector<std::string> allowed = below;
      allowed.insert(allowed.end(), prefixes.begin(), prefixes.end());
      allowed.insert(allowed.end(), also.begin(), also.end());
      for (const auto& prefix : prefixes) rows.push_back({prefix, allowed});
    };
    floor({"blinkbert/version.hpp"});
    floor({"blinkbert/core/"});
    beside({"blinkbert/dev/"});
    floor({"blinkbert/ops/"});
    floor({"blinkbert/backend/backend.hpp"});
    beside({"blinkbert/backend/cpu.hpp", "blinkbert/backend/cpu/"});
    beside({"blinkbert/cuda/"}, {"blinkbert/dev/"});
    beside({"blinkbert/cuda.hpp"}, {"blinkbert/dev/", "blinkbert/cuda/"});
    beside({"blinkbert/emulated.hpp"}, {"blinkbert/dev/", "blinkbert/cuda/", "blinkbert/backend/cpu"});
    floor({"blinkbert/layers/"});
    floor({"blinkbert/model/"});
    floor({"blinkbert/objective/"});
    floor({"blinkbert/train/", "blinkbert/data/", "blinkbert/io/"});
    floor({"blinkbert/inference_model.hpp"});
    beside({"blinkbert/inference.hpp", "blinkbert/blinkbert.hpp"}, {"blinkbert/backend/cpu.hpp"});
    return rows;
  }();
  return table;
}

/// Everything a header includes, directly or not; names outside the project are kept but not followed.
std::set<std::string> reachable_from(const std::string& header,
                                     const std::map<std::string, std::vector<std::string>>& includes) {
  std::set<std::string> seen;
  std::vector<std::string> open{header};
  while (!open.empty()) {
    const auto found = includes.find(open.back());
    open.pop_back();
    if (found == includes.end()) continue;
    for (const auto& name : found->second) {
      if (seen.insert(name).second) open.push_back(name);
    }
  }
  return seen;
}

struct ForbiddenWord {
  std::regex pattern;
  std::string name;
  std::vector<std::string> where;    // path prefixes it is looked for in
  std::vector<std::string> allowed;  // path prefixes it may stand in
};

const std::vector<ForbiddenWord>& forbidden_words() {
  static const std::vector<std::string> everywhere{"include/", "kernels/", "examples/", "benchmarks/", "tests/"};
  static const std::vector<std::string> library{"include/", "kernels/"};
  static const std::vector<ForbiddenWord> table{
      {std::regex("<<<"), "<<<", everywhere, {"kernels/blinkbert/dev/cuda.hpp"}},
      {std::regex(R"(\bcudaMalloc\w*)"),
       "cudaMalloc",
       everywhere,
       {"kernels/blinkbert/cuda/device.hpp", "tests/cuda/fake_card.hpp"}},
      {std::regex(R"(\b(std::)?(cout|cerr|clog)\b)"), "std::cout", library, {}},
      {std::regex(R"(\b(printf|fprintf|vprintf|puts|putchar|fputs|perror)\s*\()"), "printf", library, {}},
      {std::regex(R"(\b(exit|_exit|quick_exit|abort|terminate)\s*\()"), "exit", library, {}},
      {std::regex(R"(\bEigen::)"),
       "Eigen::",
       library,
       {"include/blinkbert/backend/cpu/", "include/blinkbert/objective/baselines.hpp"}},
  };
  return table;
}

bool is_header(const std::string& path) {
  return path.starts_with("include/") || (path.starts_with("kernels/") && !path.ends_with(".cu"));
}

/// One line for each broken rule; none for a sound house.
std::vector<std::string> complaints_about(const Sources& sources) {
  std::vector<std::string> complaints;
  const auto complain = [&](const std::string& path, const std::string& what) {
    complaints.push_back(path + ": " + what);
  };

  // Headers by the name users include them with; include/ and kernels/ are two roots of one tree of names.
  std::map<std::string, std::vector<std::string>> includes;
  std::map<std::string, std::string> path_of;
  for (const auto& [path, code] : sources) {
    if (!is_header(path)) continue;
    const std::string name = path.substr(path.find('/') + 1);
    path_of[name] = path;
    includes[name] = includes_of(code);
    if (code.find("#pragma once") == std::string::npos) complain(path, "has no #pragma once");
  }

  for (const auto& [name, included] : includes) {
    const std::string& path = path_of[name];
    const auto floor =
        std::find_if(floors().begin(), floors().end(), [&](const Floor& row) { return name.starts_with(row.prefix); });
    if (floor == floors().end()) {
      complain(path, "stands on no floor of the house");
      continue;
    }
    for (const auto& other : included) {
      if (starts_with_any(other, {"Eigen/", "unsupported/Eigen"}) &&
          !starts_with_any(path, {"include/blinkbert/backend/cpu/", "include/blinkbert/objective/baselines.hpp"})) {
        complain(path, "includes " + other + "; Eigen lives in backend/cpu/ and objective/baselines.hpp only");
      }
      if (other.starts_with("CLI/")) complain(path, "includes " + other + "; flags are read by programs only");
      if (!other.starts_with("blinkbert/")) continue;
      if (!path_of.contains(other)) {
        complain(path, "includes " + other + ", which does not exist");
      } else if (name != "blinkbert/blinkbert.hpp" && !starts_with_any(other, floor->may_include)) {
        complain(path, "includes " + other + ", which is not on a floor below");
      } else if (path.starts_with("include/") && path_of[other].starts_with("kernels/")) {
        complain(path, "includes " + other + ": include/ never includes kernels/");
      }
    }
    if (reachable_from(name, includes).contains(name)) complain(path, "includes itself by way of others");
  }

  const auto needs_files = [&](const std::string& name) {
    const auto reached = reachable_from(name, includes);
    return std::any_of(reached.begin(), reached.end(), [](const auto& other) {
      return starts_with_any(other, {"nlohmann/", "toml"});
    });
  };
  const bool has_whole = path_of.contains("blinkbert/blinkbert.hpp");
  if (!has_whole) complain("include/blinkbert/blinkbert.hpp", "does not exist");
  const auto whole = reachable_from("blinkbert/blinkbert.hpp", includes);
  for (const auto& [name, path] : path_of) {
    const bool belongs = path.starts_with("include/") && !needs_files(name) &&
                         !name.starts_with("blinkbert/train/run_folder") && !name.starts_with("blinkbert/inference") &&
                         name != "blinkbert/blinkbert.hpp";
    if (has_whole && belongs && !whole.contains(name)) complain(path, "cannot be reached from blinkbert.hpp");
    if (whole.contains(name) && needs_files(name)) complain(path, "brings JSON or TOML into blinkbert.hpp");
    if (whole.contains(name) && name.starts_with("blinkbert/train/run_folder"))
      complain(path, "is reached from blinkbert.hpp");
  }
  // nvcc and Eigen fight: what a .cu includes, and inference_model.hpp made for it, never reaches Eigen.
  for (const auto& [path, code] : sources) {
    if (!path.ends_with(".cu") && path != "include/blinkbert/inference_model.hpp") continue;
    auto with_this = includes;
    with_this[path] = includes_of(code);
    for (const auto& other : reachable_from(path, with_this)) {
      if (other.starts_with("Eigen/")) complain(path, "reaches " + other);
    }
  }

  // Programs include cuda.hpp and link the kernels: the words of kernels mean the emulator to their compiler.
  for (const auto& other : reachable_from("blinkbert/cuda.hpp", includes)) {
    if (other == "blinkbert/dev/dev.hpp" || other.ends_with(".cuh")) {
      complain("kernels/blinkbert/cuda.hpp", "reaches kernels: " + other);
    }
  }

  for (const auto& [path, code] : sources) {
    const std::string bare = without_comments(code);
    for (const auto& word : forbidden_words()) {
      if (!starts_with_any(path, word.where) || starts_with_any(path, word.allowed)) continue;
      std::smatch match;
      if (!std::regex_search(bare, match, word.pattern)) continue;
      const auto line = 1 + std::count(bare.cbegin(), match[0].first, '\n');
      complain(path, "line " + std::to_string(line) + " holds " + word.name);
    }
  }
  return complaints;
}

Sources read_project() {
  namespace fs = std::filesystem;
  const fs::path root = BLINKBERT_SOURCE_DIR;
  const std::set<std::string> kinds{".hpp", ".cpp", ".cu", ".cuh", ".h"};
  Sources sources;
  for (const char* folder : {"include", "kernels", "examples", "benchmarks", "tests"}) {
    if (!fs::exists(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !kinds.contains(entry.path().extension().string())) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      sources[fs::relative(entry.path(), root).generic_string()] =
          std::string(std::istreambuf_iterator<char>(file), {});
    }
  }
  return sources;
}

/// A small sound house for the checker's own test; every header is reachable from blinkbert.hpp.
Sources small_house() {
  const auto header = [](const std::string& body) { return "#pragma once\n" + body; };
  return {
      {"include/blinkbert/version.hpp", header("")},
      {"include/blinkbert/core/view.hpp",
       header("// std::cout << \"comment\"; exit(1)\nconst int big = 1'000'000; const char quote = '\"';\n")},
      {"include/blinkbert/ops/linear.hpp", header("#include <blinkbert/core/view.hpp>\n")},
      {"include/blinkbert/backend/backend.hpp", header("#include <blinkbert/ops/linear.hpp>\n")},
      {"include/blinkbert/backend/cpu.hpp",
       header("#include <blinkbert/backend/backend.hpp>\n#include <blinkbert/backend/cpu/linear.hpp>\n")},
      {"include/blinkbert/backend/cpu/linear.hpp",
       header("#include <Eigen/Core>\n#include <blinkbert/backend/backend.hpp>\nEigen::MatrixXf m;\n")},
      {"include/blinkbert/layers/linear.hpp", header("#include <blinkbert/backend/backend.hpp>\n")},
      {"include/blinkbert/model/config.hpp",
       header("#include <blinkbert/ops/linear.hpp>\n#include <blinkbert/layers/linear.hpp>\n")},
      {"include/blinkbert/objective/baselines.hpp",
       header("#include <Eigen/Core>\n#include <blinkbert/model/config.hpp>\n")},
      {"include/blinkbert/data/frame.hpp",
       header("#include <blinkbert/io/csv.hpp>\n#include <blinkbert/model/config.hpp>\n")},
      {"include/blinkbert/io/csv.hpp", header("const char* wrong = \"exit(1) <<< printf(\";\n")},
      {"include/blinkbert/io/jsonl.hpp", header("#include <nlohmann/json.hpp>\n")},
      {"include/blinkbert/train/run_folder.hpp", header("#include <blinkbert/io/jsonl.hpp>\n")},
      {"include/blinkbert/inference_model.hpp",
       header("#include <blinkbert/data/frame.hpp>\n#include <blinkbert/io/jsonl.hpp>\n")},
      {"include/blinkbert/inference.hpp",
       header("#include <blinkbert/inference_model.hpp>\n#include <blinkbert/backend/cpu.hpp>\n")},
      {"include/blinkbert/blinkbert.hpp",
       header("#include <blinkbert/backend/cpu.hpp>\n#include <blinkbert/data/frame.hpp>\n"
              "#include <blinkbert/objective/baselines.hpp>\n#include <blinkbert/version.hpp>\n")},
      {"kernels/blinkbert/dev/cuda.hpp",
       header("#include <blinkbert/core/view.hpp>\nvoid launch() { kernel<<<1, 2>>>(); }\n")},
      {"kernels/blinkbert/dev/dev.hpp", header("#include <blinkbert/dev/cuda.hpp>\n")},
      {"kernels/blinkbert/cuda/device.hpp",
       header("#include <blinkbert/backend/backend.hpp>\nvoid f() { cudaMalloc(p, 1); }\n")},
      {"kernels/blinkbert/cuda/linear.cuh",
       header("#include <blinkbert/dev/dev.hpp>\n#include <blinkbert/ops/linear.hpp>\n")},
      {"kernels/blinkbert/cuda.hpp", header("#include <blinkbert/cuda/device.hpp>\n")},
      {"examples/score.cpp",
       "#include <CLI/CLI.hpp>\n#include <blinkbert/inference.hpp>\nint main() { std::cout << 1; exit(1); }\n"},
  };
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + '\n';
  return text;
}

}  // namespace

TEST_CASE("the house is sound") {
  const Sources sources = read_project();
  REQUIRE(sources.contains("include/blinkbert/core/view.hpp"));
  const auto complaints = complaints_about(sources);
  INFO(joined(complaints));
  CHECK(complaints.empty());
}

TEST_CASE("the citation names the library's version") {
  std::ifstream file(std::filesystem::path(BLINKBERT_SOURCE_DIR) / "CITATION.cff");
  const std::string citation(std::istreambuf_iterator<char>(file), {});
  CHECK_THAT(citation, Catch::Contains("\nversion: " BLINKBERT_VERSION "\n"));
}

TEST_CASE("comments and literals are not code") {
  const std::vector<std::pair<std::string, std::string>> table{
      {"a // b\nc", "a \nc"},
      {"a /* b\n // */ c", "a \n c"},
      {"f(\"b \\\" // c\"); d", "f(); d"},
      {"f('\"', 1'000, '\\''); g(\"x\")", "f(, 1'000, ); g()"},
      {"f(R\"x(a \"b\" )\" // )x\"); d", "f(); d"},
      {"/* never closed", ""},
      {"f(\"never closed\nd", "f(\nd"},
  };
  for (const auto& [code, bare] : table) CHECK(without_comments(code) == bare);
}

TEST_CASE("the checker accepts a sound house") {
  const auto complaints = complaints_about(small_house());
  INFO(joined(complaints));
  CHECK(complaints.empty());
}

TEST_CASE("the checker sees each fault, and only that") {
  struct Fault {
    std::string path, added, complaint;
  };
  const std::string inc = "include/blinkbert/", ker = "kernels/blinkbert/";
  const std::vector<Fault> faults{
      {inc + "core/view.hpp", "#include <blinkbert/ops/row.hpp>", "does not exist"},
      {inc + "core/view.hpp", "#include <blinkbert/backend/cpu/linear.hpp>", "not on a floor below"},
      {inc + "version.hpp", "#include <blinkbert/core/view.hpp>", "not on a floor below"},
      {inc + "ops/linear.hpp", "#include <blinkbert/backend/cpu/linear.hpp>", "not on a floor below"},
      {inc + "ops/linear.hpp", "#include <blinkbert/model/config.hpp>", "not on a floor below"},
      {inc + "backend/backend.hpp", "  #  include \"blinkbert/backend/cpu/linear.hpp\"", "not on a floor below"},
      {inc + "backend/cpu/linear.hpp", "#include <blinkbert/layers/linear.hpp>", "not on a floor below"},
      {inc + "layers/linear.hpp", "#include <blinkbert/backend/cpu.hpp>", "not on a floor below"},
      {inc + "layers/linear.hpp", "#include <blinkbert/model/config.hpp>", "not on a floor below"},
      {inc + "model/config.hpp", "#include <blinkbert/objective/baselines.hpp>", "not on a floor below"},
      {inc + "objective/baselines.hpp", "#include <blinkbert/data/frame.hpp>", "not on a floor below"},
      {inc + "data/frame.hpp", "#include <blinkbert/inference_model.hpp>", "not on a floor below"},
      {inc + "data/frame.hpp", "#include <blinkbert/blinkbert.hpp>", "not on a floor below"},
      {inc + "data/frame.hpp", "#include <blinkbert/backend/cpu.hpp>", "not on a floor below"},
      {inc + "inference_model.hpp", "#include <blinkbert/backend/cpu.hpp>", "reaches Eigen/Core"},
      {inc + "inference_model.hpp", "#include <blinkbert/objective/baselines.hpp>", "reaches Eigen/Core"},
      {"examples/device.cu", "#include <blinkbert/inference.hpp>", "reaches Eigen/Core"},
      {inc + "inference.hpp", "#include <blinkbert/cuda/linear.cuh>", "not on a floor below"},
      {inc + "blinkbert.hpp", "#include <blinkbert/cuda/linear.cuh>", "never includes kernels/"},
      {ker + "dev/cuda.hpp", "#include <blinkbert/ops/linear.hpp>", "not on a floor below"},
      {ker + "cuda/linear.cuh", "#include <blinkbert/backend/cpu.hpp>", "not on a floor below"},
      {ker + "cuda/linear.cuh", "#include <blinkbert/cuda.hpp>", "not on a floor below"},
      {ker + "cuda.hpp", "#include <blinkbert/cuda/linear.cuh>", "reaches kernels: blinkbert/cuda/linear.cuh"},
      {ker + "cuda/device.hpp", "#include <blinkbert/dev/dev.hpp>", "reaches kernels: blinkbert/dev/dev.hpp"},
      {inc + "io/csv.hpp", "#include <blinkbert/data/frame.hpp>", "includes itself"},
      {inc + "layers/linear.hpp", "#include <Eigen/Dense>", "Eigen lives in"},
      {inc + "backend/cpu.hpp", "#include <Eigen/Dense>", "Eigen lives in"},
      {inc + "layers/linear.hpp", "Eigen::MatrixXf m;", "holds Eigen::"},
      {inc + "io/jsonl.hpp", "#include <CLI/CLI.hpp>", "programs only"},
      {inc + "io/csv.hpp", "#include <nlohmann/json.hpp>", "brings JSON or TOML"},
      {inc + "data/frame.hpp", "#include <blinkbert/io/jsonl.hpp>", "brings JSON or TOML"},
      {inc + "data/frame.hpp", "#include <toml++/toml.h>", "brings JSON or TOML"},
      {inc + "blinkbert.hpp", "#include <blinkbert/train/run_folder.hpp>", "is reached from blinkbert.hpp"},
      {inc + "train/trainer.hpp", "#pragma once", "cannot be reached"},
      {inc + "utils/text.hpp", "#pragma once", "no floor"},
      {inc + "layers/linear.hpp", "void f() { std::cout << 1; }", "line 3 holds std::cout"},
      {inc + "layers/linear.hpp", "using std::cerr; void f() { cerr << 1; }", "holds std::cout"},
      {inc + "layers/linear.hpp", "void f() { std::fprintf(stderr, \"x\"); }", "holds printf"},
      {inc + "layers/linear.hpp", "/* why */ void f() { std::exit(1); }", "holds exit"},
      {ker + "cuda/linear.cuh", "void g() { std::abort(); }", "holds exit"},
      {ker + "cuda/linear.cuh", "void g() { kernel<<<1, 2>>>(); }", "holds <<<"},
      {"examples/score.cpp", "void g() { kernel<<<1, 2>>>(); }", "holds <<<"},
      {ker + "dev/cuda.hpp", "void g() { cudaMallocAsync(p, 1, s); }", "holds cudaMalloc"},
      {"tests/ops/linear_test.cpp", "void g() { cudaMalloc(p, 1); }", "holds cudaMalloc"},
  };
  for (const auto& fault : faults) {
    Sources sources = small_house();
    sources[fault.path] += fault.added + "\n";
    const auto complaints = complaints_about(sources);
    INFO(fault.path << " with " << fault.added << "\n" << joined(complaints));
    CHECK(std::any_of(complaints.begin(), complaints.end(),
                      [&](const auto& complaint) { return complaint.find(fault.complaint) != std::string::npos; }));
  }

  Sources without_guard = small_house();
  without_guard["include/blinkbert/version.hpp"] = "";
  CHECK(complaints_about(without_guard) ==
        std::vector<std::string>{"include/blinkbert/version.hpp: has no #pragma once"});
  Sources headless = small_house();
  headless.erase("include/blinkbert/blinkbert.hpp");
  CHECK(complaints_about(headless) == std::vector<std::string>{"include/blinkbert/blinkbert.hpp: does not exist"});
}
