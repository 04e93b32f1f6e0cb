# Faults in what orders the two branches of a CUDA device; read by tests/mutation.sh.
layers=include/blinkbert/layers model=include/blinkbert/model cuda=kernels/blinkbert/cuda

# --- train: the layers ---------------------------------------------------------------------------------------------------
mutant train $layers/encoder_block.hpp 's#^    join(device);##' 'a block does not join'
mutant train $model/encoder_with_head.hpp 's#^    join(device);##' 'the backward pass does not join'
mutant train $layers/encoder_block.hpp 's#da = all_dattention.rows#da = all_branch.rows#' 'the gradients of a and of f share memory'
mutant train $layers/linear.hpp 's#run_beside(#run(#' 'weight gradients of the feed-forward on the first branch'
mutant train $layers/self_attention.hpp 's#run_beside(#run(#' 'weight gradients of attention on the first branch'
mutant train include/blinkbert/backend/backend.hpp 's#device.beside(\[&\] { run(device, op); });#run(device, op);#' 'nothing on the second branch'
mutant train include/blinkbert/backend/backend.hpp 's#  if constexpr (HasSecondBranch<Device>) device.join();##' 'nobody joins'

# --- cuda: the device ----------------------------------------------------------------------------------------------------
mutant cuda $cuda/device.hpp 's#    forked_.hold_back(second_.stream);##' 'the second branch does not wait for the first'
mutant cuda $cuda/device.hpp 's#forked_.record(first_.stream)#forked_.record(second_.stream)#' 'the second branch waits for itself'
mutant cuda $cuda/device.hpp 's#    joined_.hold_back(first_.stream);##' 'the first branch does not wait for the second'
mutant cuda $cuda/device.hpp 's#joined_.record(second_.stream)#joined_.record(first_.stream)#' 'the first branch waits for itself'
mutant cuda $cuda/device.hpp 's#    is_forked_ = true;##' 'a fork is forgotten'
mutant cuda $cuda/device.hpp 's#    branch_ = &second_;##' 'all on the first branch'
mutant cuda $cuda/device.hpp '/catch (...) {/,/throw/s#branch_ = &first_;##' 'what is thrown leaves the second branch'
mutant cuda $cuda/device.hpp 's#rooms = branch_->workspaces#rooms = first_.workspaces#' 'one workspace of kernels for both branches'
mutant cuda $cuda/device.hpp '/void wait() {/,/^  }/s#join();##' 'who waits does so for one branch'
mutant cuda $cuda/device.hpp '/void download(/,/^  }/s#    join();##' 'a download before the branch is joined'
mutant cuda $cuda/device.hpp '/Graph capture/,/^  }/s#BLINKBERT_EXPECTS(!is_forked_);##' 'a graph that is not joined'
mutant cuda $cuda/cublaslt.hpp 's#workspaces_.find(stream)#workspaces_.find(nullptr)#; s#workspaces_.emplace(stream#workspaces_.emplace(nullptr#' 'one workspace of products for both branches'
mutant cuda $cuda/cublaslt.hpp 's#check_cuda(cudaDeviceSynchronize(), "waiting");.*##' 'ways to multiply are timed beside other work'
