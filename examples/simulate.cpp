// Writes recordings of simulated drivers: synthetic, for trying things out.

#include <iostream>

#include <nlohmann/json.hpp>

#include <blinkbert/data/simulated_drivers.hpp>
#include <blinkbert/io/atomic_file.hpp>

#include "command_line.hpp"

int main(int argc, char** argv) {
  programs::CommonFlags flags;
  blinkbert::SimulationConfig config;
  std::string out;
  CLI::App app("Writes blink recordings of simulated drivers (synthetic data) as a CSV file", "simulate");
  programs::add_output_flags(app, flags);
  app.add_option("--drivers", config.drivers, "Number of drivers")->capture_default_str();
  app.add_option("--seed", config.seed, "Seed of everything random")->check(programs::is_seed())->capture_default_str();
  app.add_option("--out", out, "CSV file to write")->required();

  return programs::run_program(app, argc, argv, [&] {
    const auto recordings = blinkbert::simulate(config);
    blinkbert::write_file_atomically(out, blinkbert::simulated_csv(recordings));
    std::size_t blinks = 0;
    for (const auto& recording : recordings) blinks += recording.blinks.size();
    if (flags.wants_json) {
      std::cout << nlohmann::ordered_json{{"file", out},
                                          {"synthetic", true},
                                          {"drivers", config.drivers},
                                          {"recordings", recordings.size()},
                                          {"blinks", blinks},
                                          {"seed", config.seed}}
                       .dump()
                << '\n';
    } else {
      std::cout << out << ": " << blinks << " synthetic blinks, " << recordings.size() << " recordings of "
                << config.drivers << " simulated drivers\n";
    }
    return programs::good;
  });
}
