# Faults in the CUDA kernels, whose source runs on the emulator; read by tests/mutation.sh.
cuda=kernels/blinkbert/cuda dev=kernels/blinkbert/dev core=include/blinkbert/core

# --- layer_norm --------------------------------------------------------------------------------------------------------
mutant layer_norm $cuda/row_norm.cuh 's#squares += off \* off#squares += x[i] * x[i]#' 'squares without the mean'
mutant layer_norm $cuda/row_norm.cuh 's#x.column(i) < width ? x\[i\] - mean : 0.0f#x[i] - mean#' 'columns beyond the width in the variance'
mutant layer_norm $cuda/row_norm.cuh 's# - xhat \* mean_of_product##' 'dx without the xhat term'
mutant layer_norm $cuda/row_norm.cuh '/BB_DEVICE void add_warps/,/^}/s/  sync_block();//' 'no barriers while the warps are added up'
mutant layer_norm $cuda/row_norm.cuh 's#w < norm_warps; ++w#w + 1 < norm_warps; ++w#' 'the last warp not added up'
mutant layer_norm $cuda/layer_norm.cuh 's#dx\[i\] += residual\[i\]#dx[i] = residual[i]#' 'the residual instead of the sum'
mutant layer_norm $cuda/layer_norm.cuh 's#t += blocks() \* norm_warps#t += norm_warps#' 'blocks work on the same rows'
mutant layer_norm $cuda/row_slice.cuh 's#if (column >= view.extent(1)) continue#if (column > view.extent(1)) continue#' 'a column beyond the row written'
mutant layer_norm $cuda/column_sums.cuh 's#  sync_block();##' 'no barrier before partial sums are added up'
mutant layer_norm $cuda/column_sums.cuh 's#w < column_sums_warps; ++w#w + 1 < column_sums_warps; ++w#' 'the last warp of partial sums left out'
mutant layer_norm $cuda/column_sums.cuh 's#load(place) + total#total#' 'dgamma and dbeta overwritten instead of added to'

# --- residual_norm -----------------------------------------------------------------------------------------------------
mutant residual_norm $cuda/residual_norm.cuh 's#op.rows ? load(at(op.rows, r)) : r#r#' 'counters of the place instead of the row'
mutant residual_norm $cuda/residual_norm.cuh 's#t / op.L, t % op.L#0, t#' 'counters without the sequence'
mutant residual_norm $cuda/residual_norm.cuh 's#branch\[i\] \* keep_scale#branch[i]#' 'forward without the scale'
mutant residual_norm $cuda/residual_norm.cuh 's#dx\[i\] \* keep_scale#dx[i]#' 'backward without the scale'
mutant residual_norm $cuda/residual_norm.cuh 's#if (op.dz) {#if (false) {#' 'backward without dz'
mutant residual_norm $cuda/residual_norm.cuh 's#add_warps(partials, E, dbeta#add_warps(partials, E, dgamma#' 'dgamma in dbeta'
mutant residual_norm $cuda/element_dropout.cuh 's#Chunk == 8 ? j :#Chunk == 8 ? j ^ 1 :#' 'halves of a word exchanged'

# --- masked_attention --------------------------------------------------------------------------------------------------
mutant masked_attention $cuda/masked_attention.cuh 's#  sync_block();  // v is there##' 'forward: no barrier before v is read'
mutant masked_attention $cuda/masked_attention.cuh '/^attention_forward/,/^}/s#  sync_block();  // q and k of all warps are there##' 'forward: no barrier before k is read'
mutant masked_attention $cuda/masked_attention.cuh '/^attention_forward/,/^}/s#wait_copies<1>#wait_copies<2>#' 'forward: q and k not waited for'
mutant masked_attention $cuda/masked_attention.cuh '/^attention_forward/,/^}/s#wait_copies<0>#wait_copies<1>#' 'forward: v not waited for'
mutant masked_attention $cuda/masked_attention.cuh 's#kept(n, r) ? S.part\[n\]\[r\] : 0#S.part[n][r]#' 'forward without dropout'
mutant masked_attention $cuda/masked_attention.cuh 's#  sync_block();  // what phase A left of all rows is there##' 'backward: no barrier between the phases'
mutant masked_attention $cuda/masked_attention.cuh 's#    sync_block();  // v and do are there##' 'backward: no barrier before v is read'
mutant masked_attention $cuda/masked_attention.cuh 's#\*= dP.part\[n\]\[r\] - delta\[r / 2\]#*= dP.part[n][r]#' 'dS without delta'
mutant masked_attention $cuda/masked_attention.cuh 's#(dP - load(at(deltas, query)))#dP#' 'dS of the keys without delta'
mutant masked_attention $cuda/masked_attention.cuh 's#const float factor\[2\] = {scale, scale};#const float factor[2] = {1, 1};#' 'dq without the scale'
mutant masked_attention $cuda/masked_attention.cuh 's#query < queries \&\& is_visible\[r / 2\]#query < queries#' 'gradients of keys that are not visible'
mutant masked_attention $cuda/attention_rows.cuh 's#words\[static_cast<std::size_t>(r / 2 \* 2 + e)\], r % 2#words[static_cast<std::size_t>(e * 2 + r / 2)], r % 2#' 'dropout words of the queries in another order'
mutant masked_attention $cuda/attention_rows.cuh 's#keeps(word, key % 2) << (4 \* e + 2 \* lower + c)#keeps(word, 0) << (4 * e + 2 * lower + c)#' 'dropout of odd keys from the neighbour'
mutant masked_attention $cuda/attention_rows.cuh 's#bits >> r % 2 \& 1) == 0#bits \& 1) == 0#' 'the mask bit of the neighbour'
mutant masked_attention $cuda/attention_rows.cuh 's#shuffle_xor(largest\[half\], 2)#largest[half]#' 'largest score of half a row'
mutant masked_attention $cuda/attention_rows.cuh 's#return value + shuffle_xor(value, 2)#return value#' 'sums of half a row'
mutant masked_attention $cuda/attention_rows.cuh 's#load(at(op.visible, b, s / 32)) >> s % 32#load(at(op.visible, b, 0)) >> s % 32#' 'visible bits of the first 32 keys for all'
mutant masked_attention $cuda/strip_product.cuh 's#A(first + l % 16, k + l / 16 \* 8)#A(first + l / 2, k + l % 2 * 8)#' 'rows of the left factor in another order'
mutant masked_attention $cuda/strip_product.cuh 's#multiply_add(sum.part\[2 \* n\], weights.part\[k\], b\[0\], b\[1\])#multiply_add(sum.part[2 * n], weights.part[k], b[1], b[0])#' 'halves of the right factor exchanged'
mutant masked_attention $cuda/strip_product.cuh 's#if (row < rows \&\& column < D) store(target(row, column), four)#if (column < D) store(target(row, column), four)#' 'rows beyond the sequence written'
mutant masked_attention $cuda/strip_product.cuh 's#if (16 \* k >= limit) continue;#if (16 * k + 16 >= limit) continue;#' 'the last tile of keys left out'
mutant masked_attention $cuda/masked_attention_long.cuh 's#    sync_block();  // k is free##' 'long rows: k overwritten too early'
mutant masked_attention $cuda/masked_attention_long.cuh 's#      sum\[half\] \*= shrink;##' 'long rows: sums not rescaled'
mutant masked_attention $cuda/masked_attention_long.cuh 's#      sync_block();  // q and do are free##' 'long rows: q overwritten too early'
mutant masked_attention $cuda/masked_attention_long.cuh 's#multiply(dq, Weights<Real, R>(S), k, column,#multiply(dq, Weights<Real, R>(S), k, 0,#' 'long rows: dq of the first columns only'
mutant masked_attention $cuda/masked_attention_long.cuh 's#store(at(results, problem.b, problem.h, 2, row), delta\[half\])#store(at(results, problem.b, problem.h, 2, row), 0.0f)#' 'long rows: delta lost between the kernels'

# --- gathered_attention ------------------------------------------------------------------------------------------------
mutant gathered_attention $cuda/attention_rows.cuh 's#const int row = problem.row(16 \* i + strip_row(2 \* lower));#const int row = 16 * i + strip_row(2 * lower);#' 'dropout of the place instead of the row'
mutant gathered_attention $cuda/attention_rows.cuh 's#const int row = problem.row(16 \* i + strip_column(e, c));#const int row = 16 * i + strip_column(e, c);#' 'dropout of the keys by place instead of row'
mutant gathered_attention $cuda/attention_rows.cuh 's#r < queries \&\& load(at(op.rows, first_query + r)) >= 0#r < queries#' 'places without a row taken for rows'
mutant gathered_attention $cuda/attention_rows.cuh 's#load(at(op.rows, first_query + r)) - b \* L(op)#load(at(op.rows, first_query + r))#' 'rows of the batch instead of the sequence'
mutant gathered_attention $cuda/attention_rows.cuh 's#load(at(op.offsets, b + 1)) - first_query#load(at(op.offsets, b + 1)) - first_query - 1#' 'the last query left out'
mutant gathered_attention $cuda/masked_attention.cuh 's#multiply_transposed(P, k, first, q, queries)#multiply_transposed(P, k, first, q, queries - 16)#' 'the last tile of queries left out'

# --- narrow_block ------------------------------------------------------------------------------------------------------
mutant narrow_block $cuda/narrow_block.cuh 's#  sync_block();  // delta of all queries is there##' 'no barrier between queries and keys'
mutant narrow_block $cuda/narrow_block.cuh 's#    sync_block();  // the room is free##' 'the next sequence too early'
mutant narrow_block $cuda/narrow_block.cuh 's#is_first ? value : load(place) + value#value#' 'gradients of the last sequence only'
mutant narrow_block $cuda/narrow_block.cuh 's#dk\[d\] \* scale#dk[d]#' 'dk without the scale'
mutant narrow_block $cuda/narrow_block.cuh 's#sequence.sees(s) ? rows : 0#rows#' 'gradients of keys that are not visible'
mutant narrow_block $cuda/narrow_block.cuh 's#dropped(setting.after_feed_forward, branch, b, r, N, n)#dropped(setting.after_attention, branch, b, r, N, n)#' 'dropout of the other branch'
mutant narrow_block $cuda/narrow_block.cuh 's#r < sequence.rows ? load(result#r <= sequence.rows ? load(result#' 'the first padded row written'
mutant narrow_block $cuda/narrow_block.cuh 's#store(room.hidden2(r, f), sum \* gelu_slope(load(room.hidden1(r, f))))#store(room.hidden2(r, f), sum)#' 'backward without the slope of GELU'
mutant narrow_block $cuda/narrow_block.cuh 's#&dsum, room.gamma1, setting.epsilon, dgamma1#nullptr, room.gamma1, setting.epsilon, dgamma1#' 'pre-norm: dx without the stream'
mutant narrow_block $cuda/narrow_block.cuh 's#load(at(out, i)) + sum#sum#' 'gradients overwritten instead of added to'
mutant narrow_block $cuda/narrow_block.cuh 's#r < partials.extent(0); ++r) sum#r + 1 < partials.extent(0); ++r) sum#' 'the last block left out'

# --- embed_rows -------------------------------------------------------------------------------------------------------
mutant embed_rows $cuda/embed_rows.cuh 's#  sync_block();  // W is there##' 'no barrier between W and its use'
mutant embed_rows $cuda/embed_rows.cuh 's#    sync_warp();  // before the next x##' 'forward: x overwritten too early'
mutant embed_rows $cuda/embed_rows.cuh 's#>> (lane() / lanes \* lanes);  // bit i#;  // bit i#' 'all groups of a warp take the first one for theirs'
mutant embed_rows $cuda/embed_rows.cuh 's#      sync_block();  // the rows before are done with##' 'sums: x overwritten too early'
mutant embed_rows $cuda/embed_rows.cuh 's#((row + 1) \* B - 1) / partials.rows;#row * B / partials.rows;#' 'dposition of a position without its last block'
mutant embed_rows $cuda/embed_rows.cuh 's#for (int from = 1; from < ways; ++from)#for (int from = 1; from + 1 < ways; ++from)#' 'the last way of warps left out'
mutant embed_rows $cuda/embed_rows.cuh 's#float sum = is_odd ? odd : even;#float sum = is_odd ? even : odd;#' 'dx of neighbouring rows exchanged'
mutant embed_rows $cuda/embed_rows.cuh 's#takes_part ? t : -1#t#' 'sums: padded rows of dy read'

# --- gather_rows ------------------------------------------------------------------------------------------------------
mutant gather_rows $cuda/gather_rows.cuh 's#if (source >= 0) chunk#if (source > 0) chunk#' 'row 0 not copied'
mutant gather_rows $cuda/gather_rows.cuh 's#at(op.from, source, column)#at(op.from, r, column)#' 'rows not looked up'
mutant gather_rows $cuda/gather_rows.cuh 's#if (source < 0 \&\& is_in_place) continue;#if (source < 0) continue;#' 'rows of -1 not written'
mutant gather_rows $cuda/gather_rows.cuh 's#if (source < 0 \&\& is_in_place) continue;#if (is_in_place) continue;#' 'nothing added to a residual in its place'
mutant gather_rows $cuda/gather_rows.cuh 's#\.residual = op.residual}#.residual = {}}#' 'backward without the residual'
mutant gather_rows $cuda/gather_rows.cuh 's#mine.column; column < E;#mine.column; column + Chunk < E;#' 'the last chunk left out'

# --- zero_padding -----------------------------------------------------------------------------------------------------
mutant zero_padding $cuda/zero_padding.cuh 's#if (is_kept \&\& is_in_place) continue;#if (is_in_place) continue;#' 'padded rows not written in place'
mutant zero_padding $cuda/zero_padding.cuh 's#if (is_kept) chunk#if (true) chunk#' 'padded rows copied'
mutant zero_padding $cuda/row_threads.cuh 's#row % L < load#row % L <= load#' 'the first padded row taken for real'
mutant zero_padding $cuda/row_threads.cuh 's#row_step(count \* (threads() / lanes))#row_step(2 * count * (threads() / lanes))#' 'every second stretch of rows left out'
mutant zero_padding $cuda/row_threads.cuh 's#const int blocks = ceil_div(rows, row_threads / lanes);#const int blocks = rows / (row_threads / lanes);#' 'no block for the last rows'

# --- activation -------------------------------------------------------------------------------------------------------
mutant activation $cuda/activation.cuh 's#kept >> j \& 1u) != 0 ? scale \* active : 0.0f#kept >> j \& 1u) != 0 ? active : 0.0f#' 'forward without the scale'
mutant activation $cuda/activation.cuh 's#t / op.L, t % op.L#0, t#' 'counters without the sequence'
mutant activation $cuda/activation.cuh 's#op.rows ? load(at(op.rows, r)) : r#r#' 'counters of the place instead of the row'
mutant activation $cuda/activation.cuh 's#static_cast<float>(x\[j\]) > 0 \&\&#static_cast<float>(x[j]) >= 0 \&\&#' 'slope 1 at 0'
mutant activation $cuda/element_dropout.cuh 's#static_cast<int>(flat % 8)#column % 8#' 'the bit of the column instead of the element'

# --- batch_norm -------------------------------------------------------------------------------------------------------
mutant batch_norm $cuda/batch_norm.cuh '/BB_DEVICE Part combined_by_block/,/^}/ s#sync_block();##' 'no barrier between a column and its shares'
mutant batch_norm $cuda/batch_norm.cuh '/^batch_norm_forward/,/^}/ s#  sync_block();##' 'forward: no barrier between statistics and rows'
mutant batch_norm $cuda/batch_norm.cuh 's#if (panel.walker == 0) {#if (true) {#' 'running values and gradients written by every block'
mutant batch_norm $cuda/batch_norm.cuh 's#+ shift \* shift \* weight_of_shift##' 'a thread forgets the shift between its means'
mutant batch_norm $cuda/batch_norm.cuh 's#one.squares + one.count \* (one.mean - mean) \* (one.mean - mean)#one.squares#' 'blocks combined without the shift between their means'
mutant batch_norm $cuda/batch_norm.cuh 's#const bool is_batch = all.count >= 2;#const bool is_batch = all.count >= 1;#' 'statistics of a single row'
mutant batch_norm $cuda/batch_norm.cuh 's#load(at(op.dgamma, f)) + all.product#all.product#' 'dgamma overwritten instead of added to'

# --- row_masks --------------------------------------------------------------------------------------------------------
mutant row_masks $cuda/row_masks.cuh 's#smaller >= count#smaller + 1 >= count#' 'one row too few'
mutant row_masks $cuda/row_masks.cuh 's#equal + popcount(equals \& lanes_before) < count - below#true#' 'all rows of equal words chosen'
mutant row_masks $cuda/row_masks.cuh 's#equal += popcount(equals)#equal += 0#' 'equal words counted in 32 rows only'
mutant row_masks $cuda/row_masks.cuh '/sync_warp();/d' 'fates of other lanes read without waiting'
mutant row_masks $cuda/row_masks.cuh 's#(n / 4) \* 65536 + row#(n / 4) + row#' 'noise index without its stride'
mutant row_masks $cuda/row_masks.cuh 's#n % 4 < 2 ? left : right#n % 4 < 2 ? right : left#' 'noise words in another order'
mutant row_masks $cuda/row_masks.cuh 's#chosen += popcount(choice)#chosen += 1#' 'places of the next 32 rows overlap'
mutant row_masks $cuda/row_masks.cuh 's#word(static_cast<std::uint32_t>(l), sequence)#word(static_cast<std::uint32_t>(l), static_cast<std::uint32_t>(b))#' 'counters of the place instead of the sequence'
mutant row_masks $cuda/row_masks.cuh 's#fate == RowFate::unchanged || fate == RowFate::noisy#fate != RowFate::replaced#' 'padded rows read'
mutant row_masks $cuda/row_masks.cuh 's#is_real \&\& !is_hidden#!is_hidden#' 'padded rows visible'
mutant row_masks $cuda/row_masks.cuh 's#op.hide == Hide::replaced \&\& action == RowAction::replace#op.hide == Hide::replaced#' 'hide = replaced hides all chosen rows'

# --- masked_loss ------------------------------------------------------------------------------------------------------
mutant masked_loss $cuda/masked_loss.cuh 's#op.rows == HeadRows::all ? r : selected\[k\]#r#' 'target of the place instead of the row'
mutant masked_loss $cuda/masked_loss.cuh 's#op.scale \* load(at(op.weights, n))#op.scale#' 'gradient without the weights'
mutant masked_loss $cuda/masked_loss.cuh 's#sync_block();##' 'no barrier before the sums of other threads are read'
mutant masked_loss $cuda/masked_loss.cuh 's#g < groups; ++g#g + 1 < groups; ++g#' 'the last rows of a block not added up'
mutant masked_loss $cuda/masked_loss.cuh 's#if (selected\[k\] >= 0)#if (r < R)#' 'rows not chosen are read'
mutant masked_loss $cuda/masked_loss.cuh 's#op.dprediction \&\& r < R#op.dprediction \&\& selected[k] >= 0#' 'zeros not written'
mutant masked_loss $cuda/masked_loss.cuh 's#begin += masked_loss_rows \* stride#begin += 2 * masked_loss_rows * stride#' 'every second turn of a thread left out'
mutant masked_loss $cuda/column_sums.cuh 's#load(place) + total#total#' 'sums overwritten instead of added to'

# --- score_loss -------------------------------------------------------------------------------------------------------
mutant score_loss $cuda/score_loss.cuh 's#if (load(at(op.lengths, b)) > 0)#if (true)#' 'sequences of length 0 count'
mutant score_loss $cuda/score_loss.cuh 's#store(place, load(place) + sum)#store(place, sum)#' 'sum overwritten instead of added to'
mutant score_loss $cuda/score_loss.cuh 's#b += threads()#b += 2 * threads()#' 'every second turn of a thread left out'
mutant score_loss $cuda/score_loss.cuh 's#gradient = op.scale \* #gradient = #' 'gradient without the scale'
mutant score_loss $cuda/score_loss.cuh 's#if (op.dprediction) store#if (op.dprediction \&\& gradient != 0) store#' 'zeros not written'
mutant score_loss $dev/warp.hpp '/store(at(scratch, warp()), value);/{n;d}' 'no barrier before the warps are added up'

# --- sum_of_squares ---------------------------------------------------------------------------------------------------
mutant sum_of_squares $cuda/sum_of_squares.cuh 's#segment.entry().trains_at(op.step)#true#' 'frozen segments take part'
mutant sum_of_squares $cuda/segments.cuh 's#if (first + i < end) four\[i\]#if (first + i + 1 < end) four[i]#' 'the last element of a segment left out'
mutant sum_of_squares $cuda/segments.cuh 's#end - first >= 4) return load<4>#end - first >= 1) return load<4>#' 'the filling behind a segment counted'
mutant sum_of_squares $cuda/segments.cuh 's#while (entry_.end <= element#if (entry_.end <= element#' 'the cursor moves one segment at most'
mutant sum_of_squares $cuda/sum_of_squares.cuh 's#(begin + k) \* stretch#begin * stretch#' 'a stretch counted four times'
mutant sum_of_squares $cuda/sum_of_squares.cuh 's#static_cast<double>(gradients\[k\]\[i\]) \* static_cast<double>(gradients\[k\]\[i\])#static_cast<double>(gradients[k][i] * gradients[k][i])#' 'squares in float'
mutant sum_of_squares $cuda/sum_of_squares.cuh 's#i < partials.extent(0); i#i + 1 < partials.extent(0); i#' 'the last block left out'

# --- adamw ------------------------------------------------------------------------------------------------------------
mutant adamw $cuda/adamw.cuh 's#op.step - segment.first_trainable + 1#op.step + 1#' 'bias correction from the start of the run'
mutant adamw $cuda/adamw.cuh 's# - segment.skips_before##' 'skips before the first step counted'
mutant adamw $cuda/adamw.cuh 's#if (segment.decays) step.kept#step.kept#' 'decay of every segment'
mutant adamw $cuda/adamw.cuh 's#if (!is_finite(sum) \&\& i == 0)#if (!is_finite(sum))#' 'every thread counts the skip'
mutant adamw $cuda/adamw.cuh 's#is_finite(sum) \&\& segment.trains_at#segment.trains_at#' 'a step on what is not finite'
mutant adamw $cuda/adamw.cuh 's#static_cast<float>(ratio < 1 ? ratio : 1)#1#' 'no clipping'
mutant adamw $cuda/adamw.cuh 's#if (has_own_working)#if (false)#' 'working block not written'
mutant adamw $cuda/segments.cuh 's#if (first + i < end) store#store#' 'the filling behind a segment written'
mutant adamw $cuda/adamw.cuh 's#(1 - op.beta2) \* g \* g#(1 - op.beta1) * g * g#' 'second moment with the first momentum'
mutant adamw $cuda/adamw.cuh 's#s += blocks() \* adamw_warps#s += adamw_warps#' 'blocks work on the same stretches'

# --- narrowing --------------------------------------------------------------------------------------------------------
mutant narrowing $cuda/narrowing.cuh 's#(P % narrowing_elements > 0 ? 1 : 0)#0#' 'the last elements left out'
mutant narrowing $cuda/narrowing.cuh 's#chunk += blocks() \* threads()#chunk += threads()#' 'blocks write the same elements'
mutant narrowing $cuda/narrowing.cuh 's#p < P; ++p#p + 1 < P; ++p#' 'the last element left out'
mutant narrowing $cuda/narrowing.cuh 's#y\[i\] = static_cast<Real>(x\[i\])#y[i] = static_cast<Real>(x[i \& 6])#' 'every second element from its neighbour'
mutant narrowing $core/bf16.hpp 's#word + 0x7fff + (word >> 16 \& 1)#word + 0x8000#' 'ties rounded away from zero'
