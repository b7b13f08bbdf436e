"""Collective operations of processes that have several tensors each, one for each of their GPUs.

Groups have one rank for each process. What a process has several of is combined there first, on the device of the
first tensor, and handed out afterwards; so these work on the CPU as well. Groups of a backend that the program has
registered get the lists as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from beeline.util.collective import types
from beeline.util.collective.collective import check_rank, check_tensor, check_tensors, get_group_handle


def allreduce_multigpu(
    tensor_list: list[Any], group_name: str = "default", op: types.ReduceOp = types.ReduceOp.SUM
) -> None:
    """Each tensor of each rank becomes the reduction of all."""
    check_tensors(tensor_list)
    group, options = get_group_handle(group_name), types.AllReduceOptions(reduceOp=op)
    if not _is_torch(group):
        return group.allreduce(tensor_list, options)
    result = _reduced(_tensors(tensor_list), op)
    group.allreduce([result], options)
    return _copy(result, _tensors(tensor_list, filled=True))


def reduce_multigpu(
    tensor_list: list[Any],
    dst_rank: int = 0,
    dst_tensor: int = 0,
    group_name: str = "default",
    op: types.ReduceOp = types.ReduceOp.SUM,
) -> None:
    """Tensor `dst_tensor` of rank `dst_rank` becomes the reduction of all; the others stay."""
    check_tensors(tensor_list)
    group = get_group_handle(group_name)
    check_rank(group, dst_rank)
    _check_root_tensor(len(tensor_list), dst_tensor)
    options = types.ReduceOptions(reduceOp=op, root_rank=dst_rank, root_tensor=dst_tensor)
    if not _is_torch(group):
        return group.reduce(tensor_list, options)
    result = _reduced(_tensors(tensor_list), op)
    group.reduce([result], options)
    if group.rank == dst_rank:
        _copy(result, _tensors([tensor_list[dst_tensor]], filled=True))
    return None


def broadcast_multigpu(
    tensor_list: list[Any], src_rank: int = 0, src_tensor: int = 0, group_name: str = "default"
) -> None:
    """Each tensor of each rank becomes tensor `src_tensor` of rank `src_rank`."""
    check_tensors(tensor_list)
    group = get_group_handle(group_name)
    check_rank(group, src_rank)
    _check_root_tensor(len(tensor_list), src_tensor)
    options = types.BroadcastOptions(root_rank=src_rank, root_tensor=src_tensor)
    if not _is_torch(group):
        return group.broadcast(tensor_list, options)
    tensors = _tensors(tensor_list, filled=True)
    result = tensors[src_tensor if group.rank == src_rank else 0]
    group.broadcast([result], options)
    return _copy(result, [tensor for tensor in tensors if tensor is not result])


def allgather_multigpu(
    output_tensor_lists: list[list[Any]], input_tensor_list: list[Any], group_name: str = "default"
) -> None:
    """Each list of outputs, one for each input here, becomes all inputs of rank 0, then those of rank 1, and so on.

    Raises RuntimeError where a list does not have as many tensors as that.
    """
    _check_lists(output_tensor_lists)
    check_tensors(input_tensor_list)
    group = get_group_handle(group_name)
    if not _is_torch(group):
        return group.allgather(output_tensor_lists, input_tensor_list, types.AllGatherOptions())
    import torch

    here = len(input_tensor_list)
    _check_lengths(output_tensor_lists, here, here * group.world_size, "allgather")
    own = _stacked(_tensors(input_tensor_list))
    gathered = [torch.empty_like(own) for _ in range(group.world_size)]
    group.allgather([gathered], [own], types.AllGatherOptions())
    for outputs in output_tensor_lists:
        for index, output in enumerate(_tensors(outputs, filled=True)):
            _copy(gathered[index // here][index % here], [output])
    return None


def reducescatter_multigpu(
    output_tensor_list: list[Any],
    input_tensor_lists: list[list[Any]],
    group_name: str = "default",
    op: types.ReduceOp = types.ReduceOp.SUM,
) -> None:
    """Output g of rank r becomes the reduction of place r * outputs + g of all input lists of all ranks.

    Raises RuntimeError where a list does not have a tensor for every output of every rank.
    """
    _check_lists(input_tensor_lists)
    check_tensors(output_tensor_list)
    group, options = get_group_handle(group_name), types.ReduceScatterOptions(reduceOp=op)
    if not _is_torch(group):
        return group.reducescatter(output_tensor_list, input_tensor_lists, options)
    import torch

    here = len(output_tensor_list)
    _check_lengths(input_tensor_lists, here, here * group.world_size, "reducescatter")
    lists = [_tensors(inputs) for inputs in input_tensor_lists]
    places = [_reduced([inputs[place] for inputs in lists], op) for place in range(here * group.world_size)]
    parts = [_stacked(places[start : start + here]) for start in range(0, len(places), here)]
    result = torch.empty_like(parts[0])
    group.reducescatter([result], [parts], options)
    for index, output in enumerate(_tensors(output_tensor_list, filled=True)):
        _copy(result[index], [output])
    return None


def send_multigpu(
    tensor: Any, dst_rank: int, dst_gpu_index: int, group_name: str = "default", n_elements: int = 0
) -> None:
    """As send(); of the first `n_elements` elements, where it is not 0. To which GPU the receiver's tensor says."""
    check_tensor(tensor)
    group = get_group_handle(group_name)
    check_rank(group, dst_rank)
    _check_other(group, dst_rank, "dst_rank", n_elements)
    options = types.SendOptions(dst_rank=dst_rank, dst_gpu_index=dst_gpu_index, n_elements=n_elements)
    group.send([tensor], options)


def recv_multigpu(
    tensor: Any, src_rank: int, src_gpu_index: int, group_name: str = "default", n_elements: int = 0
) -> None:
    """As recv(); the first `n_elements` elements are filled, where it is not 0."""
    check_tensor(tensor)
    group = get_group_handle(group_name)
    check_rank(group, src_rank)
    _check_other(group, src_rank, "src_rank", n_elements)
    options = types.RecvOptions(src_rank=src_rank, src_gpu_index=src_gpu_index, n_elements=n_elements)
    group.recv([tensor], options)


def _is_torch(group: Any) -> bool:
    from beeline.util.collective.collective_group.torch_group import TorchGroup

    return isinstance(group, TorchGroup)


def _tensors(values: Sequence[Any], *, filled: bool = False) -> list[Any]:
    from beeline.util.collective.collective_group.torch_group import as_tensor

    return [as_tensor(value, filled=filled).detach() for value in values]


def _reduced(tensors: list[Any], op: types.ReduceOp) -> Any:
    """A new tensor on the device of the first one."""
    import torch

    combine: dict[types.ReduceOp, Callable[..., Any]] = {
        types.ReduceOp.SUM: torch.add,
        types.ReduceOp.PRODUCT: torch.mul,
        types.ReduceOp.MIN: torch.minimum,
        types.ReduceOp.MAX: torch.maximum,
    }
    result = tensors[0].clone()
    for tensor in tensors[1:]:
        combine[op](result, tensor.to(result.device), out=result)
    return result


def _stacked(tensors: list[Any]) -> Any:
    import torch

    return torch.stack([tensor.to(tensors[0].device) for tensor in tensors])


def _copy(source: Any, targets: list[Any]) -> None:
    for target in targets:
        target.copy_(source)


def _check_lists(lists: Any) -> None:
    if not isinstance(lists, list):
        raise RuntimeError(f"The input must be a list of lists of tensors. Got '{type(lists)}'.")
    if not lists:
        raise RuntimeError(f"Did not receive tensors. Got: {lists}")
    for tensors in lists:
        check_tensors(tensors)


def _check_lengths(lists: list[list[Any]], here: int, each: int, what: str) -> None:
    if len(lists) != here or any(len(tensors) != each for tensors in lists):
        raise RuntimeError(
            f"{what} of {here} tensors in each rank takes {here} lists of {each} tensors; got lists of "
            f"{[len(tensors) for tensors in lists]}."
        )


def _check_other(group: Any, rank: int, name: str, n_elements: int) -> None:
    if rank == group.rank:
        raise RuntimeError(f"The {name} '{rank}' is self. Copy from one GPU to the other instead.")
    if n_elements < 0:
        raise RuntimeError(f"The n_elements '{n_elements}' should be >= 0.")


def _check_root_tensor(count: int, root_tensor: int) -> None:
    if root_tensor < 0:
        raise ValueError(f"root_tensor '{root_tensor}' is negative.")
    if root_tensor >= count:
        raise ValueError(f"root_tensor '{root_tensor}' is greater than the number of GPUs: '{count}'")
