"""Collective operations among actors and tasks, by Ray's names: what ranks call.

Tensors are torch.Tensor or numpy.ndarray, of the same shape and dtype at every rank, and are read and written where
they are; those with gaps are copied on the way. Every rank of a group calls the same operations in the same order.
Where ranks differ in what they call, gloo's groups raise RuntimeError at all of them; where one ends, the others get
one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from beeline.api import session
from beeline.util.collective import backend_registry, groups, types

_log = logging.getLogger("beeline")


def nccl_available() -> bool:
    """Whether this process can make groups by NCCL. Imports torch."""
    return backend_registry.is_available("NCCL")


def gloo_available() -> bool:
    """Whether this process can make groups by gloo. Imports torch."""
    return backend_registry.is_available("GLOO")


def is_backend_available(backend: str) -> bool:
    """Whether this process can make groups of the backend."""
    return backend_registry.is_available(backend)


def is_group_initialized(group_name: str) -> bool:
    """Whether this process is in the group."""
    return groups.current.has(group_name)


def init_collective_group(
    world_size: int,
    rank: int,
    backend: str = types.Backend.NCCL,
    group_name: str = "default",
    gloo_timeout: int | None = None,
) -> None:
    """Joins a group, inside an actor or a task; returns when all ranks have.

    Args:
        world_size: How many ranks there are.
        rank: Of this process, from 0.
        backend: "gloo" or "nccl", in any case, or a registered one.
        group_name: By which the ranks find each other, within the namespace.
        gloo_timeout: Milliseconds for the ranks to find each other and for every operation; None: 30 s for the former
            and 30 minutes for the latter, as Ray has it whatever it is told.

    Raises RuntimeError outside of an actor or task, for a name or rank that is taken, or ranks that differ in
    world_size; ValueError for an empty name or a backend that this process lacks; AssertionError (as Ray) for a rank
    outside of the group; TimeoutError where not all ranks come. This process is in no group of the name then.
    """
    _check_inside_actor()
    if not group_name:
        raise ValueError(f"group_name '{group_name}' needs to be a string.")
    if not world_size > 0 or not 0 <= rank < world_size:
        raise AssertionError(f"A group has at least one rank, and ranks from 0 to {world_size - 1}; got rank {rank}.")
    groups.current.make(group_name, groups.Membership(_upper(backend), world_size, rank, gloo_timeout))


def create_collective_group(
    actors: Sequence[Any],
    world_size: int,
    ranks: list[int],
    backend: str = types.Backend.NCCL,
    group_name: str = "default",
    gloo_timeout: int | None = None,
) -> None:
    """Declares actors as a group, in the driver: each joins when it first calls an operation of the group.

    Args:
        actors: Handles.
        world_size: How many ranks there are.
        ranks: Of each actor.
        backend, group_name, gloo_timeout: As of init_collective_group.

    Raises RuntimeError for a name that is declared already, ranks that are no permutation of 0 to len(actors) - 1, a
    world_size below that, and a backend that is not there. Nothing is declared then.
    """
    session.ensure()
    if len(ranks) != len(actors):
        raise RuntimeError(
            f"Each actor should correspond to one rank. Got '{len(ranks)}' ranks but '{len(actors)}' actors"
        )
    if set(ranks) != set(range(len(ranks))):
        raise RuntimeError(f"Ranks must be a permutation from 0 to '{len(ranks) - 1}'. Got '{ranks}'.")
    if world_size <= 0:
        raise RuntimeError(f"World size must be greater than zero. Got '{world_size}'.")
    if len(ranks) > world_size:
        raise RuntimeError(f"Ranks cannot be greater than world_size: there are {len(ranks)}, it is {world_size}.")
    if not backend_registry.is_registered(_upper(backend)):
        raise RuntimeError(
            f"Backend {_upper(backend)} is not registered, or cannot be used here: "
            f"register_collective_backend({_upper(backend)!r}, ...), in the actors too."
        )
    membership = groups.Membership(_upper(backend), world_size, -1, gloo_timeout)
    groups.declare(group_name, [actor._ray_actor_id.hex() for actor in actors], ranks, membership)


# Ray's older name.
declare_collective_group = create_collective_group


def destroy_collective_group(group_name: str = "default") -> None:
    """Leaves a group, inside an actor; each rank does so. Without such a group it warns."""
    _check_inside_actor()
    if not groups.current.leave(group_name):
        _log.warning("The group '%s' does not exist in this process: nothing is destroyed.", group_name)


def get_rank(group_name: str = "default") -> int:
    """The rank of this process, -1 if it is not in the group."""
    _check_inside_actor()
    group = groups.current.find(group_name)
    return -1 if group is None else int(group.rank)


def get_collective_group_size(group_name: str = "default") -> int:
    """How many ranks the group has, -1 if this process is not in it."""
    _check_inside_actor()
    group = groups.current.find(group_name)
    return -1 if group is None else int(group.world_size)


def get_group_handle(group_name: str = "default") -> Any:
    """This process's rank of the group (a `BaseGroup`); joins one that was declared.

    Raises RuntimeError where there is none, and as init_collective_group.
    """
    _check_inside_actor()
    group = groups.current.find(group_name)
    if group is not None:
        return group
    membership = groups.declared(group_name)
    if membership is None:
        raise RuntimeError(f"The collective group '{group_name}' is not initialized in the process.")
    return groups.current.make(group_name, membership)


def allreduce(tensor: Any, group_name: str = "default", op: types.ReduceOp = types.ReduceOp.SUM) -> None:
    """Every rank's tensor becomes the reduction of all."""
    check_tensor(tensor)
    get_group_handle(group_name).allreduce([tensor], types.AllReduceOptions(reduceOp=op))


def barrier(group_name: str = "default") -> None:
    """Returns once every rank has called it."""
    get_group_handle(group_name).barrier()


def reduce(
    tensor: Any, dst_rank: int = 0, group_name: str = "default", op: types.ReduceOp = types.ReduceOp.SUM
) -> None:
    """The tensor of `dst_rank` becomes the reduction of all; the others' stay as they are."""
    check_tensor(tensor)
    group = get_group_handle(group_name)
    check_rank(group, dst_rank)
    group.reduce([tensor], types.ReduceOptions(reduceOp=op, root_rank=dst_rank))


def broadcast(tensor: Any, src_rank: int = 0, group_name: str = "default") -> None:
    """Every rank's tensor becomes that of `src_rank`."""
    check_tensor(tensor)
    group = get_group_handle(group_name)
    check_rank(group, src_rank)
    group.broadcast([tensor], types.BroadcastOptions(root_rank=src_rank))


def allgather(tensor_list: list[Any], tensor: Any, group_name: str = "default") -> None:
    """The tensors of `tensor_list`, one for each rank, become those that the ranks gave as `tensor`."""
    check_tensor(tensor)
    check_tensors(tensor_list)
    group = get_group_handle(group_name)
    if len(tensor_list) != group.world_size:
        raise RuntimeError(
            "The length of the tensor list operands to allgather must be equal to world_size: "
            f"{len(tensor_list)} for {group.world_size} ranks."
        )
    group.allgather([tensor_list], [tensor], types.AllGatherOptions())


def reducescatter(
    tensor: Any, tensor_list: list[Any], group_name: str = "default", op: types.ReduceOp = types.ReduceOp.SUM
) -> None:
    """`tensor` becomes the reduction of what each rank has in its `tensor_list` for this rank; the lists stay."""
    check_tensor(tensor)
    check_tensors(tensor_list)
    group = get_group_handle(group_name)
    if len(tensor_list) != group.world_size:
        raise RuntimeError(
            "The length of the tensor list operands to reducescatter must be equal to world_size: "
            f"{len(tensor_list)} for {group.world_size} ranks."
        )
    group.reducescatter([tensor], [tensor_list], types.ReduceScatterOptions(reduceOp=op))


def send(tensor: Any, dst_rank: int, group_name: str = "default") -> None:
    """Sends a tensor to a rank, which receives it by recv(); those of one rank come in order.

    May return when the tensor is on its way: that it was received is not said.
    """
    check_tensor(tensor)
    group = get_group_handle(group_name)
    check_rank(group, dst_rank)
    if dst_rank == group.rank:
        raise RuntimeError(f"The destination rank '{dst_rank}' is self.")
    group.send([tensor], types.SendOptions(dst_rank=dst_rank))


def recv(tensor: Any, src_rank: int, group_name: str = "default") -> None:
    """The tensor becomes what a rank sends by send(). Raises RuntimeError where that is of another size or dtype: it is
    dropped then, and the tensor is as it was."""
    check_tensor(tensor)
    group = get_group_handle(group_name)
    check_rank(group, src_rank)
    if src_rank == group.rank:
        raise RuntimeError(f"The destination rank '{src_rank}' is self.")
    group.recv([tensor], types.RecvOptions(src_rank=src_rank))


def check_tensor(value: Any) -> None:
    """Raises RuntimeError, as Ray, for what is no tensor."""
    for module, name in (("numpy", "ndarray"), ("torch", "Tensor"), ("cupy", "ndarray")):
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(value, getattr(loaded, name)):
            return
    raise RuntimeError(
        f"Unrecognized tensor type '{type(value)}'. Supported types are: np.ndarray, torch.Tensor, cupy.ndarray."
    )


def check_tensors(values: Any) -> None:
    """Likewise, for what is no list of them, or an empty one."""
    if not isinstance(values, list):
        raise RuntimeError(f"The input must be a list of tensors. Got '{type(values)}'.")
    if not values:
        raise RuntimeError("Got an empty list of tensors.")
    for value in values:
        check_tensor(value)


def check_rank(group: Any, rank: int) -> None:
    """Raises ValueError for a rank that the group has not."""
    if rank < 0:
        raise ValueError(f"rank '{rank}' is negative.")
    if rank >= group.world_size:
        raise ValueError(f"rank '{rank}' must be less than world size '{group.world_size}'")


def _check_inside_actor() -> None:
    if not session.current.is_worker:
        raise RuntimeError("The collective APIs shall be only used inside a Ray actor or task.")


def _upper(backend: str) -> str:
    return "GLOO" if backend.upper() == "TORCH_GLOO" else backend.upper()
