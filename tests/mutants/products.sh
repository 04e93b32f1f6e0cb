# Faults in the products on the matrix units, where the processor has them; read by tests/mutation.sh.
if grep -qw amx_bf16 /proc/cpuinfo; then
  amx=include/blinkbert/backend/cpu/amx.hpp
  mutant backend $amx 's#load_b(2), multiply_add();#load_b(2);#' 'without x0 y2'
  mutant backend $amx 's#load_a(2), load_b(0), multiply_add();#load_a(2), load_b(0);#' 'without x2 y0'
  mutant backend $amx 's#load_b(1), multiply_add();#load_b(1);#' 'without x1 y1'
  mutant backend $amx 's#load_a(1), multiply_add();#load_a(1);#' 'without x1 y0'
  mutant backend $amx 's#interleaved\[piece\] << 16#interleaved[piece] << 15#' 'a piece of the even rows taken off wrongly'
  mutant backend $amx 's#both, both, 0, 16, 1, 17#both, both, 16, 0, 1, 17#' 'two neighbours in depth the wrong way round'
  mutant backend $amx 's#first > 0 ? Result::add : result#result#' 'blocks of depth not added up'
  mutant backend $amx 's#first > 0 ? Result::add : result#first > 0 ? Result::add : Result::overwrite#' 'overwritten instead of added to'
  mutant backend include/blinkbert/backend/cpu/gemm.hpp 's#adds ? before + value : value#value#' 'edges overwritten instead of added to'
  mutant backend $amx 's#OwnProducts<float>::pack(rows, b.at(k, n)#OwnProducts<float>::pack(rows, b.at(0, n)#' 'every step from the first rows of B'
  mutant backend $amx 's#room + ii / tile_rows \* tile_row#room#' 'every pair of rows of tiles from the first rows of A'
  mutant backend $amx 's#a.at(i, first \* tile_depth)#a.at(0, first * tile_depth)#' 'every block from the first rows of A'
  mutant backend $amx 's#a.at(i, first \* tile_depth)#a.at(i, 0)#' 'every block of depth from the first columns of A'
  mutant backend $amx 's#std::int64_t{row} \* steps + step#std::int64_t{step} * steps + row#' 'tiles of A in another order than they are read'
  mutant backend $amx 's#a.data, a.column_stride, depth, count#a.data, a.column_stride, depth, count - 1#' 'the last row of a transposed tile lost'
  mutant backend $amx 's#added ? added + j : nullptr#nullptr#' 'without the bias'
  mutant backend $amx 's#first == 0 ? bias : nullptr#bias#' 'the bias with every block of depth, at edges'
  mutant backend $amx 's#std::copy_n(row, some_columns, filled_row)#std::copy_n(row, 1, filled_row)#' 'the bias of the last columns lost'
fi
