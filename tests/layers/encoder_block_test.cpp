// One block alone: its output, the gradient of its input, and its way back without one.

#include <blinkbert/layers/encoder_block.hpp>
#include <tests/model/model_case.hpp>

namespace blinkbert::test {
namespace {

using oracle::Dual;

struct BlockCase {
  const char* name;
  int width, heads;
  NormOrder norm;
  double dropout;
  std::vector<int> rows = {};  // rows read; empty = all
};

/// Values of a set of its own, moved away from their simple starts.
oracle::Parameters<double> shift_values(ParameterSet<Cpu<double>>& set) {
  oracle::Parameters<double> parameters;
  std::uint64_t key = 300;
  for (const auto& entry : set.entries()) {
    const View<double, 1> values = ParameterSet<Cpu<double>>::slice(set.values(), entry);
    const std::vector<double> shift = random_values<double>(values.extent(0), ++key, 0.25);
    for (int i = 0; i < values.extent(0); ++i) values(i) += shift[static_cast<std::size_t>(i)];
    parameters[entry.name] = {values.data(), values.data() + values.size()};
  }
  return parameters;
}

TEST_CASE("a block's input gradient is that of plain loops") {
  const std::vector<BlockCase> cases{
      {"post-norm", 8, 2, NormOrder::post, 0},
      {"pre-norm", 8, 2, NormOrder::pre, 0},
      {"post-norm, dropout, four heads on nine columns", 9, 4, NormOrder::post, 0.2},
      {"pre-norm, dropout, eight heads on eighteen columns", 18, 8, NormOrder::pre, 0.2},
      {"post-norm, some rows", 8, 2, NormOrder::post, 0, {0, 3, 4, 7}},
      {"pre-norm, some rows", 8, 2, NormOrder::pre, 0, {0, 3, 4, 7}},
      {"post-norm, dropout, rows of the second sequence", 9, 4, NormOrder::post, 0.2, {5, 7}},
      {"pre-norm, dropout, one row a sequence", 18, 8, NormOrder::pre, 0.2, {4, 7}},
  };
  const ModelCase shape{.name = "", .N = 4, .E = 18, .heads = 2, .blocks = 1, .lengths = {5, 3}, .L = 5};
  const HostBatch host = make_batch(shape, 70);
  for (const BlockCase& one : cases) {
    INFO(one.name);
    const int T = host.T(), w = one.width;
    const bool reads_some = !one.rows.empty();
    const std::vector<int> rows = reads_some ? one.rows : oracle::all_rows(T);
    const int R = static_cast<int>(rows.size());
    ModelConfig config{.width = w, .blocks = 1, .heads = one.heads, .dropout = one.dropout, .norm = one.norm};
    Cpu<double> device(1);
    ParameterSet<Cpu<double>> set;
    const EncoderBlock<Cpu<double>> block(set, "block", w, config, 2);
    set.allocate(device, 9);
    const oracle::Parameters<double> parameters = shift_values(set);
    Arena<Cpu<double>> arena(device);
    auto saved = reads_some ? block.plan_read(arena, T) : block.plan(arena, T);
    const auto scratch = block.plan_scratch(arena, T);
    const auto x = arena.take<double>(T, w), y = arena.take<double>(R, w), dx = arena.take<double>(T, w),
               dy = arena.take<double>(R, w);
    const auto lengths = arena.take<int>(2);
    const auto visible = arena.take<std::uint32_t>(2, 1);
    const std::vector<double> input = random_values<double>(T * w, 71);
    std::vector<int> is_real;
    for (const int t : rows) is_real.push_back(real_rows(host.lengths, host.L)[static_cast<std::size_t>(t)]);
    const std::vector<double> weights = zeroed(random_values<double>(R * w, 72), is_real);
    upload(device, x, input.data());
    upload(device, dy, weights.data());
    upload(device, lengths, host.lengths.data());
    for (int b = 0; b < 2; ++b) {
      visible(b, 0) = 0;
      for (int l = 0; l < host.L; ++l) {
        visible(b, 0) |=
            static_cast<std::uint32_t>(host.visible[static_cast<std::size_t>(b)][static_cast<std::size_t>(l)]) << l;
      }
    }
    const Pass pass{.mode = Mode::training,
                    .seed = 77,
                    .step = 12,
                    .first_sequence = 3,
                    .lengths = lengths,
                    .visible = visible,
                    .L = host.L};
    const auto device_rows = arena.take<int>(R), slots = arena.take<int>(T), offsets = arena.take<int>(3);
    std::fill_n(slots.data(), T, -1);
    std::fill_n(offsets.data(), 3, 0);
    for (int m = 0; m < R; ++m) {
      const int t = rows[static_cast<std::size_t>(m)];
      device_rows(m) = t;
      slots(t) = m;
      for (int b = t / host.L; b < 2; ++b) offsets(b + 1) = m + 1;
    }
    const RowsRead read = reads_some ? RowsRead{.rows = device_rows, .slots = slots, .offsets = offsets} : RowsRead{};
    block.forward(device, pass, y, x, read, saved, scratch);
    block.backward(device, pass, dx, dy, read, saved, scratch);

    const oracle::PassCase oracle_case = oracle_pass(host, Mode::training);
    const auto value = [&](const auto& inputs, const auto& values) {
      using Number = std::decay_t<decltype(inputs[0])>;
      const HeadConfig head;
      const oracle::Model<Number> model(values, config, head, w, oracle_case);
      return oracle::gather_rows(model.block(inputs, "block", w, 2), rows, w);
    };
    const std::vector<double> expected = value(input, parameters);
    const double tolerance = rounding_tolerance<double>(shape, largest(expected));
    check_close("y", {y.data(), y.data() + y.size()}, expected, tolerance);

    oracle::Parameters<Dual<double>> dual_parameters;
    for (const auto& [name, values] : parameters) dual_parameters[name] = converted<Dual<double>>(values);
    std::vector<Dual<double>> duals = converted<Dual<double>>(input);
    std::vector<double> wanted(input.size()), found(dx.data(), dx.data() + dx.size());
    for (std::size_t i = 0; i < input.size(); ++i) {
      duals[i].derivative = 1;
      const auto outputs = value(duals, dual_parameters);
      for (std::size_t o = 0; o < outputs.size(); ++o) wanted[i] += outputs[o].derivative * weights[o];
      duals[i].derivative = 0;
    }
    check_close("dx", found, wanted, rounding_tolerance<double>(shape, largest(wanted)));
    // Zero at padded rows, as the padding rule says.
    CHECK(zeroed(found, real_rows(host.lengths, host.L)) == found);

    // Without dx the same parameter gradients.
    const std::vector<double> gradients(set.gradients().data(), set.gradients().data() + set.gradients().size());
    fill_zero(device, set.gradients());
    block.backward(device, pass, {}, dy, read, saved, scratch);
    CHECK(gradients == std::vector<double>(set.gradients().data(), set.gradients().data() + set.gradients().size()));
  }
}

}  // namespace
}  // namespace blinkbert::test
