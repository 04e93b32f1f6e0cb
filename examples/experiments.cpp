// Trains all arms of an experiment, compares them, writes a report.

#include <blinkbert/data/simulated_drivers.hpp>

#include "experiments/experiment_file.hpp"
#include "experiments/experiment_page.hpp"
#include "experiments/plan.hpp"
#include "experiments/processes.hpp"
#include "experiments/result_file.hpp"

namespace {

using namespace programs;

struct ExperimentFlags : CommonFlags {
  std::filesystem::path config, out;
  std::optional<std::filesystem::path> data;
  int jobs = 1;
  std::string command;
};

/// The file of blinks: given, named in the experiment, or simulated into the folder.
std::filesystem::path data_of(const Experiment& experiment, const ExperimentFlags& flags) {
  if (flags.data) return *flags.data;
  if (experiment.data) return *experiment.data;
  if (!experiment.simulation)
    throw InputError(text(experiment.file.string(), ": names neither data nor simulate; give --data FILE.csv"));
  const std::filesystem::path path = flags.out / "simulated_drivers.csv";
  const std::string csv = blinkbert::simulated_csv(blinkbert::simulate(*experiment.simulation));
  if (!std::filesystem::exists(path) || blinkbert::read_file(path) != csv) blinkbert::write_file_atomically(path, csv);
  return path;
}

/// One row for each arm, comparison by comparison.
void print(std::ostream& out, const Json& results) {
  for (const Json& comparison : results["comparisons"]) {
    out << '\n' << comparison["title"].get<std::string>() << '\n';
    const bool is_pretraining = comparison["task"] == "pretraining";
    std::vector<std::vector<std::string>> rows{{"arm"}};
    const auto columns = is_pretraining ? std::vector<std::string>{"share of variance left", "unbounded"}
                                        : comparison["scores"].get<std::vector<std::string>>();
    for (const std::string& column : columns) {
      rows[0].push_back(column);
      rows[0].push_back("");
    }
    for (const Json& name : comparison["arms"]) {
      rows.push_back({name.get<std::string>()});
      for (const std::string& column : columns) {
        Json value, interval;
        report::ScoreText score = report::score_text(is_pretraining ? "" : column);
        const Json& arm = report::arm_called(results, name);
        if (is_pretraining && comparison.contains("masked_rows") && comparison["masked_rows"].contains(name)) {
          const Json& mean =
              comparison["masked_rows"][name.get<std::string>()][column == "unbounded" ? "unbounded" : "bounded"]
                  .back();
          value = mean["share"]["model"], interval = mean["interval"];
        } else if (arm.contains("scores")) {
          value = arm["scores"][column]["value"], interval = arm["scores"][column]["interval"];
        }
        rows.back().push_back(report::printed(value, score));
        rows.back().push_back(report::printed_interval(interval, score));
      }
    }
    print_table(out, rows);
    rows = {{"difference", is_pretraining ? "share" : comparison["scores"][0].get<std::string>(), "", ""}};
    for (const Json& one : comparison["differences"]) {
      const report::ScoreText score =
          report::score_text(is_pretraining ? "" : comparison["scores"][0].get<std::string>());
      rows.push_back({one["arm"].get<std::string>() + " - " + one["against"].get<std::string>()});
      if (one.contains("missing")) {
        rows.back().insert(rows.back().end(), {"-", "-", one["missing"].get<std::string>()});
        continue;
      }
      const Json& difference = is_pretraining ? one["bounded"].back() : one["scores"][score.name];
      rows.back().insert(rows.back().end(), {report::printed(difference["value"], score),
                                             report::printed_interval(difference["interval"], score),
                                             difference["verdict"].get<std::string>()});
    }
    if (rows.size() > 1) print_table(out, rows);
  }
  if (!results["failed"].empty())
    out << "\nfailed: " << results["failed"].size() << " runs, named above and in results.json\n";
}

int experiments(const ExperimentFlags& flags, const char* own_name) {
  const Experiment experiment = read_experiment(flags.config);
  const std::string file = blinkbert::read_file(flags.config);
  std::error_code error;
  std::filesystem::create_directories(flags.out, error);
  if (error) throw blinkbert::RunError(text("cannot make the folder ", flags.out.string(), ": ", error.message()));
  const FolderLock lock(flags.out, flags.is_quiet);
  if (stop_requested) return interrupted;

  Plan plan(experiment, data_of(experiment, flags), flags.out);
  plan.check();
  plan.extend();
  for (const char* folder : {"runs", "inputs", "logs"}) {
    std::filesystem::create_directories(flags.out / folder, error);
    if (error)
      throw blinkbert::RunError(text("cannot make the folder ", (flags.out / folder).string(), ": ", error.message()));
  }
  blinkbert::write_file_atomically(flags.out / "experiment.toml", file);
  Runner runner(plan,
                {.jobs = flags.jobs, .threads = flags.threads, .device = flags.device, .is_quiet = flags.is_quiet},
                own_name);
  if (!runner.run_all()) {
    if (!flags.is_quiet) std::cerr << "interrupted; the same call goes on where it stopped\n";
    return interrupted;
  }

  const Json results = ResultFile(plan).make(flags.command);
  blinkbert::write_file_atomically(flags.out / "results.json", results.dump(2) + "\n");
  blinkbert::write_file_atomically(flags.out / "report.html", experiment_page(flags.out, results, plan, file));
  if (flags.wants_json) {
    std::cout << results.dump() << '\n';
  } else {
    print(std::cout, results);
    std::cout << "\nresults: " << (flags.out / "results.json").string()
              << "\nreport: " << (flags.out / "report.html").string() << '\n';
  }
  return results["failed"].empty() ? good : failed_run;
}

}  // namespace

int main(int argc, char** argv) {
  ExperimentFlags flags;
  CLI::App app("Trains the arms of an experiment, resumes where it stopped, compares them and writes a report",
               "experiments");
  app.add_option("--config", flags.config, "The experiment, TOML: arms, seeds, folds, comparisons")->required();
  app.add_option("--out", flags.out,
                 "Folder of the runs and of the report; an earlier call's runs in it are not repeated")
      ->required();
  app.add_option("--data", flags.data, "CSV file of blinks, instead of the one that the experiment names");
  app.add_option("--jobs", flags.jobs, "Runs at a time; they share the threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  add_device_flags(app, flags);
  add_output_flags(app, flags);
  flags.command = command_of(argc, argv);
  stop_on_signals();
  return run_program(app, argc, argv, [&] { return experiments(flags, argv[0]); });
}
