# Faults in the CPU backend; read by tests/mutation.sh.
cpu=include/blinkbert/backend/cpu

# --- linear ------------------------------------------------------------------------------------------------------------
mutant linear $cpu/linear.hpp 's#return sum + bias#return sum#' 'forward without the bias'
mutant linear $cpu/linear.hpp 's#cpu_detail::gelu<Real>, #[](auto v) { return v; }, #' 'forward without GELU'
mutant linear $cpu/linear.hpp 's#op.pre_activation ? op.pre_activation : op.y#op.y#' 'pre-activation not written'
mutant linear $cpu/linear.hpp 's#sum \* cpu_detail::gelu_slope<Real>(h)#sum#' 'input gradient without the slope of GELU'
mutant linear $cpu/linear.hpp 's#adds ? cpu_detail::Result::add : cpu_detail::Result::overwrite#cpu_detail::Result::overwrite#' 'input gradient without the residual that lies in dx'
mutant linear $cpu/linear.hpp 's#return sum + residual#return sum#' 'input gradient without the residual that lies elsewhere'
mutant linear $cpu/gemm.hpp 's#edge\[i \* width + j\] + (result == Result::add ? element : Real(0))#edge[i * width + j]#' 'edges of a product overwritten instead of added to'
mutant linear $cpu/gemm.hpp 's#k == 0 ? result : Result::add#result#' 'blocks of depth not added up'
mutant linear $cpu/gemm.hpp 's#b.at(0, first \* panel_columns)#b.at(0, 0)#' 'every share of panels from the first columns of B'
mutant linear $cpu/gemm.hpp 's#std::int64_t{k} \* panel_columns;#0;#' 'every block of depth from the first rows of B'
mutant linear $cpu/gemm.hpp 's#a.at(i + in_place, k)#a.at(in_place, k)#' 'every block of rows from the first rows of A'
mutant linear $cpu/gemm.hpp 's#a.at(i + ii, k)#a.at(ii, k)#' 'every block of rows from the first rows of A, in place'
mutant linear $cpu/linear.hpp 's#a.at(first, 0)#a#' 'every thread multiplies the first rows'
mutant linear $cpu/linear.hpp 's#dbias\[column\] += sum#dbias[column] = sum#' 'dbias overwritten instead of added to, last columns'
mutant linear $cpu/linear.hpp 's#cpu_detail::load<Real>(to) + sums#sums#' 'dbias overwritten instead of added to'
mutant linear $cpu/linear.hpp 's#for (int t = 0; t < T; ++t) sum +=#for (int t = 1; t < T; ++t) sum +=#' 'dbias without the first row, last columns'
mutant linear $cpu/linear.hpp 's#for (int t = 0; t < T; ++t) {#for (int t = 1; t < T; ++t) {#' 'dbias without the first row'
mutant linear $cpu/elementary.hpp 's#gelu_cubic = 0.044715#gelu_cubic = 0.0447#' 'the cubic term of GELU a little off'
mutant linear $cpu/elementary.hpp 's#3 \* gelu_cubic#2 * gelu_cubic#' 'the slope of GELU with 2 instead of 3'

# --- layer_norm --------------------------------------------------------------------------------------------------------
mutant layer_norm $cpu/layer_norm.hpp 's#if (op.mean) op.mean(t) = statistics.mean#if (op.mean) op.mean(t) = 0#' 'mean not saved'
mutant layer_norm $cpu/layer_norm.hpp 's#+ residual\[e\]#+ 0 * residual[e]#' 'backward without the residual'
mutant layer_norm $cpu/layer_norm.hpp 's#if (!op.dx) continue#if (!op.dx) return#' 'parameter gradients stop where dx is not wanted'
mutant layer_norm $cpu/layer_norm.hpp 's#std::fill_n(dbeta, E, Real(0));##' 'partial sums not cleared'
mutant layer_norm $cpu/row_norm.hpp 's#return {mean + shift, 1 / std::sqrt(squares / width - shift \* shift + epsilon)}#Real all = 0; for (int e = 0; e < E; ++e) all += x[e] * x[e]; return {mean, 1 / std::sqrt(all / width - mean * mean + epsilon)}#' 'variance by E[x^2] - mean^2'
mutant layer_norm $cpu/row_norm.hpp 's#- shift \* shift + epsilon#- shift * shift#' 'no epsilon'
mutant layer_norm $cpu/row_norm.hpp 's#for (int e = 0; e < E; ++e) sum += x\[e\]#for (int e = 0; e < E; ++e) sum += e + 1 < E ? x[e] : Real(0)#' 'mean without the last column'
mutant layer_norm $cpu/row_norm.hpp 's#- xhat \* means.of_product##' 'dx without the xhat term'
mutant layer_norm $cpu/row_norm.hpp 's#dgamma\[e\] += dy\[e\] \* xhat#dgamma[e] += dy[e] * gamma[e] * xhat#' 'dgamma of gamma dy'
mutant layer_norm $cpu/row_norm.hpp 's#total\[e\] += row\[e\]#total[e] = row[e]#' 'dgamma and dbeta overwritten instead of added to'

# --- residual_norm -----------------------------------------------------------------------------------------------------
mutant residual_norm $cpu/residual_norm.hpp 's#z\[e\] = x\[e\] + cpu_detail::dropped(branch\[e\], factor\[e\])#z[e] = cpu_detail::dropped(x[e] + branch[e], factor[e])#' 'dropout of the sum instead of the branch'
mutant residual_norm $cpu/residual_norm.hpp 's#factors.row_of_batch(op.rows, t, op.L)#factors.row(0, t)#' 'dropout counters without the sequence'
mutant residual_norm $cpu/residual_norm.hpp 's#factors.row_of_batch(op.rows, t, op.L)#factors.row_of_batch({}, t, op.L)#' 'dropout counters of the place instead of the row'
mutant residual_norm $cpu/residual_norm.hpp 's#if (op.rstd) op.rstd(t) = statistics.rstd#if (op.rstd) op.rstd(t) = 1#' 'rstd not saved'
mutant residual_norm $cpu/residual_norm.hpp 's#means) + dz\[e\]#means)#' 'backward without dz'
mutant residual_norm $cpu/residual_norm.hpp 's#dbranch\[e\] = cpu_detail::dropped(dx\[e\], factor\[e\])#dbranch[e] = dx[e]#' 'dbranch without dropout'
mutant residual_norm $cpu/residual_norm.hpp 's#cpu_detail::add_partials(op.dgamma.data(), partial#cpu_detail::add_partials(op.dgamma.data(), partial + chunks * stride#' 'dbeta in dgamma'
mutant residual_norm $cpu/dropout_factors.hpp 's#if (b != b_ || row / rows_ != group_)#if (row / rows_ != group_)#' 'factors of the sequence before used again'
mutant residual_norm $cpu/dropout_factors.hpp 's#return room_ + first % 8 + #return room_ + #' 'factors not moved to the first element of the row'

# --- masked_attention --------------------------------------------------------------------------------------------------
mutant masked_attention $cpu/attention_head.hpp 's#return 1 / std::sqrt(static_cast<Real>(D))#return 1 / static_cast<Real>(D)#' 'scores scaled by 1/D'
mutant masked_attention $cpu/attention_head.hpp 's#weight = exponential(load<Real>(weights + s \* query_block) - largest)#weight = exponential(load<Real>(weights + s * query_block))#' 'softmax without the maximum taken off'
mutant masked_attention $cpu/attention_head.hpp 's#keys += static_cast<int>(visible(b, s / 32) >> (s % 32) \& 1u)#keys += 1#' 'hidden keys attended to'
mutant masked_attention $cpu/attention_head.hpp 's#length(lengths(b))#length(L)#' 'padded queries taken for real'
mutant masked_attention $cpu/masked_attention.hpp 's#for (int l = queries; l < head.L; ++l) std::fill_n(o(l)#for (int l = queries + 1; l < head.L; ++l) std::fill_n(o(l)#' 'forward: the first padded row not zero'
mutant masked_attention $cpu/masked_attention.hpp 's#for (int l = queries; l < head.L; ++l) std::fill_n(dquery(l)#for (int l = queries + 1; l < head.L; ++l) std::fill_n(dquery(l)#' 'backward: dq of the first padded row not zero'
mutant masked_attention $cpu/masked_attention.hpp 's#first / query_block, tile#0, tile#' 'every block with the dropout of the first'
mutant masked_attention $cpu/masked_attention.hpp 's#head.rows(op.qkv, 1), head.rows(op.qkv, 2)#head.rows(op.qkv, 2), head.rows(op.qkv, 1)#' 'keys and values exchanged'
mutant masked_attention $cpu/attention_head.hpp 's#\* (load<Real>(room.dweights + at) - delta)#* load<Real>(room.dweights + at)#' 'backward without delta'
mutant masked_attention $cpu/attention_head.hpp '/void attend_backward/,$ s#= drop_weights(room, head, dropout)#= room.weights#' 'dv without dropout'
mutant masked_attention $cpu/attention_head.hpp 's#if (dropout.is_active()) {#if (false) {#' 'dP without dropout'
mutant masked_attention $cpu/attention_head.hpp 's#write_scaled(dkeys(l), room.dkeys + s \* room.width, head.D)#std::copy_n(room.dkeys + s * room.width, head.D, dkeys(l))#' 'dk without the scale'
mutant masked_attention $cpu/attention_head.hpp 's#std::fill_n(dvalues(l), head.D, Real(0))#;#' 'dv of hidden keys not written'
mutant masked_attention $cpu/dropout_factors.hpp 's#Real\* odd = even + 16;#Real* odd = even; even += 16;#' 'attention dropout: two halves exchanged'
mutant masked_attention $cpu/dropout_factors.hpp 's#static_cast<std::uint32_t>(H) +#static_cast<std::uint32_t>(H + 1) +#' 'attention dropout: another number of heads in the counter'

# --- gathered_attention ------------------------------------------------------------------------------------------------
mutant gathered_attention $cpu/gathered_attention.hpp 's#room.tile\[s \* query_block + row % query_block\]#room.tile[s * query_block + i]#' 'dropout counters of the place instead of the row'
mutant gathered_attention $cpu/gathered_attention.hpp 's#query_tile = row / query_block#query_tile = 0#' 'every query with the dropout of the first 16 rows'
mutant gathered_attention $cpu/gathered_attention.hpp 's#if (query_tile != drawn) {#if (drawn < 0) {#' 'one tile of dropout for a block'
mutant gathered_attention $cpu/gathered_attention.hpp 's#key_tile \* query_block < head.length#key_tile < 1#' 'dropout of the first 16 keys only'
mutant gathered_attention $cpu/gathered_attention.hpp 's#op.rows(m) - head.b \* head.L#op.rows(m)#' 'row of the batch instead of the sequence'
mutant gathered_attention $cpu/gathered_attention.hpp 's#op.rows(m) < 0 || ##' 'a query that is no row attends'
mutant gathered_attention $cpu/gathered_attention.hpp 's#m < op.offsets(head.b + 1)#m < op.offsets(head.b + 1) - 1#' 'the last query of a sequence left out'
mutant gathered_attention $cpu/gathered_attention.hpp 's#m = op.offsets(head.b);#m = 0;#' 'queries of earlier sequences taken again'
mutant gathered_attention $cpu/gathered_attention.hpp 's#if (block.count() > 0) take(block)#;#' 'the last block left out'
mutant gathered_attention $cpu/gathered_attention.hpp 's#std::fill_n(o(m), D, Real(0))#;#' 'forward: places without a row not written'
mutant gathered_attention $cpu/gathered_attention.hpp 's#std::fill_n(dquery(m), D, Real(0))#;#' 'backward: places without a row not written'
mutant gathered_attention $cpu/gathered_attention.hpp 's#clear_key_gradients(room, head);##' 'sums of the head before not cleared'
mutant gathered_attention $cpu/gathered_attention.hpp 's#gradient, block, width, D, Real(1)#gradient, block, width, D, score_scale<Real>(D)#' 'dP scaled as the scores are'
mutant gathered_attention $cpu/gathered_attention.hpp 's#write_key_gradients(head.rows(op.dkv, 0), head.rows(op.dkv, 1)#write_key_gradients(head.rows(op.dkv, 1), head.rows(op.dkv, 0)#' 'dk and dv exchanged'
mutant gathered_attention $cpu/gathered_attention.hpp 's#write_scaled(dquery(block.place(i))#write_scaled(dquery(block.place(0) + i)#' 'dq to consecutive places'
mutant gathered_attention $cpu/attention_head.hpp 's#keys += static_cast<int>(visible(b, s / 32) >> (s % 32) \& 1u)#keys += 1#' 'hidden keys attended to'

# --- embed_rows --------------------------------------------------------------------------------------------------------
mutant embed_rows $cpu/embed_rows.hpp 's#prefix\[e\] + position\[e\]#prefix[e]#' 'prefix without the position'
mutant embed_rows $cpu/embed_rows.hpp 's#t % op.L} \* E\]#(t + 1) % op.L} * E]#' 'the next row'\''s position'
mutant embed_rows $cpu/embed_rows.hpp 's#if (t % op.L >= op.lengths(t / op.L)) std::fill_n#if (t % op.L > op.lengths(t / op.L)) std::fill_n#' 'forward: the first padded row not zero'
mutant embed_rows $cpu/embed_rows.hpp 's#if (l >= op.lengths(b)) continue;##' 'dposition of padded rows'
mutant embed_rows $cpu/embed_rows.hpp 's#op.dbias(o) += sums#op.dbias(o) = sums#' 'dbias overwritten instead of added to'
mutant embed_rows $cpu/embed_rows.hpp 's#if (op.dx \&\& is_padded)#if (false)#' 'dx of padded rows not zero'
mutant embed_rows $cpu/embed_rows.hpp 's#last = begin + lengths(b)#last = begin + L#' 'dweight of padded rows'

# --- zero_padding ------------------------------------------------------------------------------------------------------
mutant zero_padding $cpu/zero_padding.hpp 's#t % op.L >= op.lengths#t % op.L > op.lengths#' 'the first padded row kept'
mutant zero_padding $cpu/zero_padding.hpp 's#} else if (y != x) {#} else if (y == x) {#' 'real rows not copied'

# --- gather_rows -------------------------------------------------------------------------------------------------------
mutant gather_rows $cpu/gather_rows.hpp 's#std::fill_n(row, E, Real(0))#;#' 'rows of -1 not written'
mutant gather_rows $cpu/gather_rows.hpp 's#copy_rows(cpu, op.y, op.x, op.rows, {})#copy_rows(cpu, op.y.rows(0, op.y.extent(0) - 1), op.x, op.rows, {})#' 'forward: the last row not gathered'
mutant gather_rows $cpu/gather_rows.hpp 's#std::copy_n(source, E, row)#std::copy_n(source, E - 1, row)#' 'the last column not copied'
mutant gather_rows $cpu/gather_rows.hpp 's#row\[e\] = before\[e\] + source\[e\]#row[e] = source[e]#' 'backward without the residual where a row was gathered'
mutant gather_rows $cpu/gather_rows.hpp 's#std::copy_n(before, E, row)#;#' 'backward without the residual where none was'

# --- mean_rows ---------------------------------------------------------------------------------------------------------
mutant mean_rows $cpu/mean_rows.hpp 's#l < length; ++l#l < op.L; ++l#' 'padded rows count'
mutant mean_rows $cpu/mean_rows.hpp 's#sums\[e\] / length)#sums[e] / op.L)#' 'divided by the rows with padding'
mutant mean_rows $cpu/mean_rows.hpp 's#length > 0 ? static_cast<Real>(sums\[e\] / length) : Real(0)#static_cast<Real>(sums[e] / length)#' 'no rows are no zeros'
mutant mean_rows $cpu/mean_rows.hpp 's#dy\[e\] / static_cast<Real>(length)#dy[e]#' 'backward without the share'
mutant mean_rows $cpu/mean_rows.hpp 's#t % op.L >= length#false#' 'a gradient at padded rows'

# --- append_statistics -------------------------------------------------------------------------------------------------
mutant append_statistics $cpu/append_statistics.hpp 's#if (!is_visible(l)) continue;##' 'hidden rows count'
mutant append_statistics $cpu/append_statistics.hpp 's# - sums\[n\] / count;#;#' 'deviations from 0'
mutant append_statistics $cpu/append_statistics.hpp 's#op.visible(b, l / 32) >> l % 32#op.visible(b, 0) >> l % 32#' 'only the first word of visible rows read'
mutant append_statistics $cpu/append_statistics.hpp 's#std::abs(value)#value#' 'no absolute value'
mutant append_statistics $cpu/append_statistics.hpp 's#n < N \&\& count > 0; ++n#n < N; ++n#' 'no visible rows are no zeros'
mutant append_statistics $cpu/append_statistics.hpp 's#if (l >= length) {#if (false) {#' 'padded rows written as real ones'

# --- activation --------------------------------------------------------------------------------------------------------
mutant activation $cpu/activation.hpp 's#x\[f\] <= 0 ? Real(0) : x\[f\]#x[f]#' 'forward without ReLU'
mutant activation $cpu/activation.hpp 's#dx\[f\] = x\[f\] > 0 ?#dx[f] = x[f] >= 0 ?#' 'slope 1 at 0'
mutant activation $cpu/activation.hpp 's#x\[f\] > 0 ? cpu_detail::dropped(dy\[f\], factor\[f\])#x[f] > 0 ? dy[f]#' 'backward without dropout'
mutant activation $cpu/dropout_factors.hpp 's#rows ? std::max(rows(r), 0) : r#r#' 'dropout counters of the place instead of the row'
mutant activation $cpu/dropout_factors.hpp 's#to\[2 \* w + 1\] = words\[w\]\[c\] >> 16#to[2 * w + 1] = words[3 - w][c] >> 16#' 'dropout: halves in another order'
mutant activation $cpu/dropout_factors.hpp 's#words\[w\]\[c\] \& 0xffffu) >= threshold#words[w][c] \& 0xffffu) > threshold + 600#' 'drop probability a hundredth too large'

# --- batch_norm --------------------------------------------------------------------------------------------------------
mutant batch_norm $cpu/batch_norm.hpp 's#BatchStatistics::batch \&\& n >= 2#BatchStatistics::batch \&\& n >= 1#' 'statistics of one row'
mutant batch_norm $cpu/batch_norm.hpp 's#return !lengths || row % L < lengths(row / L)#return true#' 'padded rows take part'
mutant batch_norm $cpu/batch_norm.hpp 's#partial\[f\] / (count - 1) - running_variance#partial[f] / count - running_variance#' 'running variance biased'
mutant batch_norm $cpu/batch_norm.hpp 's#running_mean + momentum \* (mean\[f\] - running_mean)#mean[f] + momentum * (running_mean - mean[f])#' 'momentum the wrong way round'
mutant batch_norm $cpu/batch_norm.hpp 's#op.dgamma(f) += #op.dgamma(f) = #' 'dgamma overwritten instead of added to'
mutant batch_norm $cpu/batch_norm.hpp 's#BatchStatistics::running || n < 2#BatchStatistics::running#' 'backward through the statistics of fewer than two rows'
mutant batch_norm $cpu/batch_norm.hpp 's#- xhat \* mean_product\[f\]##' 'dx without the xhat term'
mutant batch_norm $cpu/batch_norm.hpp 's#std::fill_n(dx, F, Real(0))#;#' 'dx of padded rows not written'

# --- masked_loss -------------------------------------------------------------------------------------------------------
mutant masked_loss $cpu/masked_loss.hpp 's#op.rows == HeadRows::all ? r : selected#r#' 'target of the place instead of the row'
mutant masked_loss $cpu/masked_loss.hpp 's#op.sums(n) += #op.sums(n) = #' 'sums overwritten instead of added to'
mutant masked_loss $cpu/masked_loss.hpp 's#op.scale \* op.weights(n) \* loss_slope#op.scale * loss_slope#' 'gradient without the weights'
mutant masked_loss $cpu/masked_loss.hpp 's#if (op.dprediction) std::fill_n.*$##' 'rows not chosen keep what they held'
mutant masked_loss include/blinkbert/ops/masked_loss.hpp 's#delta \* (size - delta / 2)#delta * (size - delta)#' 'Huber with a jump'

# --- score_loss --------------------------------------------------------------------------------------------------------
mutant score_loss $cpu/score_loss.hpp 's#if (op.lengths(b) == 0) {#if (false) {#' 'sequences of length 0 count'
mutant score_loss $cpu/score_loss.hpp 's#op.sum(0) += #op.sum(0) = #' 'sum overwritten instead of added to'
mutant score_loss $cpu/score_loss.hpp 's#op.scale \* weight#weight#' 'gradient without the scale'
mutant score_loss $cpu/score_loss.hpp 's#op.scale \* weight#op.scale#' 'gradient without the weight'
mutant score_loss $cpu/score_loss.hpp 's#(weight \* loss_value#(loss_value#' 'loss without the weight'
mutant score_loss $cpu/score_loss.hpp 's#op.edges(j) <= op.target(b)#op.edges(j) < op.target(b)#' 'an edge belongs to the level below'
mutant score_loss $cpu/score_loss.hpp 's#&op.dprediction(b, 0), O, Real(0)#\&op.dprediction(b, 0), 1, Real(0)#' 'only the first output of an empty sequence written'
mutant score_loss include/blinkbert/ops/score_loss.hpp 's#(j == k ? 1 : 0)#0#' 'softmax: the slope is the share alone'
mutant score_loss include/blinkbert/ops/score_loss.hpp 's#if (j <= k) loss#if (j < k) loss#' 'ordinal: the last step does not count'
mutant score_loss include/blinkbert/ops/score_loss.hpp 's#z(j) > most ? z(j) : most#z(0)#' 'softmax: largest output not subtracted'
mutant score_loss include/blinkbert/ops/masked_loss.hpp 's#return 2 \* e;#return e;#' 'slope of the square halved'

# --- sum_of_squares ----------------------------------------------------------------------------------------------------
mutant sum_of_squares $cpu/sum_of_squares.hpp 's#sum += gradient \* gradient#sum += gradient < 0 ? -gradient : gradient#' 'sum of sizes'
mutant sum_of_squares $cpu/sum_of_squares.hpp 's#for (int p = 0; p < pieces.count; ++p) sum#for (int p = 0; p + 1 < pieces.count; ++p) sum#' 'the last piece left out'
mutant sum_of_squares $cpu/segments.hpp 's#segment.trains_at(step) ?#true ?#' 'frozen segments take part'
mutant sum_of_squares $cpu/segments.hpp 's#segment.end - segment.begin + piece_elements - 1#segment.end - segment.begin#' 'the end of every segment left out'

# --- adamw -------------------------------------------------------------------------------------------------------------
mutant adamw $cpu/adamw.hpp 's#static_cast<double>(step - segment.first_trainable + 1#static_cast<double>(step + 1#' 'bias correction from the start of the run'
mutant adamw $cpu/adamw.hpp 's#- (skipped - segment.skips_before)##' 'skipped steps counted in the bias correction'
mutant adamw $cpu/adamw.hpp 's#segment.decays ? kept : W(1)#kept#' 'decay of every segment'
mutant adamw $cpu/adamw.hpp 's#op.skipped(0) += 1;##' 'skips not counted'
mutant adamw $cpu/adamw.hpp 's#if (!std::isfinite(op.sum_of_squares(0))) {#if (false) {#' 'a step on what is not finite'
mutant adamw $cpu/adamw.hpp 's#std::min(1.0, static_cast<double>(op.clip) / (norm + 1e-6))#1.0#' 'no clipping'
mutant adamw $cpu/adamw.hpp 's#v = beta2 \* v + (1 - beta2)#v = beta1 * v + (1 - beta1)#' 'second moment with the first momentum'
mutant adamw $cpu/adamw.hpp 's#if (working != from) std::copy_n(from, count, working);##' 'working block not written'
mutant adamw $cpu/adamw.hpp '/statistics_before.data()/d' 'statistics of a skipped step kept'
mutant adamw include/blinkbert/core/segment.hpp 's#return step >= first_trainable#return step > first_trainable#' 'training starts a step late'

# --- row_masks ---------------------------------------------------------------------------------------------------------
mutant row_masks $cpu/row_masks.hpp 's#word < op.replace_below ?#word <= op.replace_below + (1u << 24) ?#' 'the share replaced a little too large'
mutant row_masks $cpu/row_masks.hpp 's#static_cast<std::uint32_t>(n / 4) \* 65536 + row#static_cast<std::uint32_t>(n / 4) + row#' 'noise index without its stride'
mutant row_masks $cpu/row_masks.hpp 's#op.slots(b \* L + l) = m#op.slots(b * L + l) = i#' 'slots counted per sequence'
mutant row_masks $cpu/row_masks.hpp 's#op.hide == Hide::replaced \&\& action == RowAction::replace#op.hide == Hide::replaced#' 'hide = replaced hides all chosen rows'
mutant row_masks $cpu/row_masks.hpp 's#std::fill_n(\&op.x.data()\[(rows_before + length) \* N\], .*$##' 'padded rows not zero'
mutant row_masks $cpu/row_masks.hpp 's#op.chosen_stream.word(row, sequence)#op.chosen_stream.word(row, static_cast<std::uint32_t>(b))#' 'counters of the place instead of the sequence'
mutant row_masks $cpu/row_masks.hpp 's#std::sort(keys, keys + count);##' 'rows not in order'
mutant row_masks include/blinkbert/core/random.hpp 's#sequence, current_step(), static#sequence, step, static#' 'the step of the device not read'
mutant masked_attention $cpu/dropout_factors.hpp 's#step = stream.current_step()#step = stream.step#' 'the step of the device not read'
mutant row_masks include/blinkbert/core/random.hpp 's#purpose) << 8 | layer#purpose) << 4 | layer#' 'another place for the purpose in the counter'
