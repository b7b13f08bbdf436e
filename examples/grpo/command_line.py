"""The flags of `examples/grpo.py`."""

import argparse

import torch

from grpo.algorithm import INPUTS

HOST, GPU = frozenset(["cpu"]), frozenset(["cuda"])
# Where the tensors may lie that a transport moves. The first one that serves --device is the default.
TRANSPORTS = {
    "beeline": {
        **dict.fromkeys(("auto", "shm", "cma", "ucx", "nixl", "gloo", "tcp"), HOST),
        **dict.fromkeys(("cuda_ipc", "nccl"), GPU),
        "object_store": HOST | GPU,
    },
    "ray": {
        **dict.fromkeys(("object_store", "nixl"), HOST | GPU),
        "gloo": HOST,
        **dict.fromkeys(("cuda_ipc", "nccl"), GPU),
    },
}
SNAPSHOTS = ("auto", "shm")  # the transports of Beeline that know isolation="snapshot"


def parse(explanation: str, argv: list[str] | None = None) -> argparse.Namespace:
    """The flags (of `argv`, else of this program), checked and with every default filled in.

    --help shows `explanation` around them.
    """
    lines = explanation.splitlines()
    parser = argparse.ArgumentParser(
        description=lines[0], epilog="\n".join(lines[1:]), formatter_class=argparse.RawDescriptionHelpFormatter
    )

    what = parser.add_argument_group("what is trained")
    what.add_argument(
        "--input",
        choices=INPUTS,
        default="digits",
        help="compass: 2-D vectors to 8 directions; digits (default): 8x8 handwritten digits",
    )
    what.add_argument("--steps", type=int, help="training steps (default: compass 200, digits 400)")
    what.add_argument(
        "--width",
        type=int,
        help="""hidden units. digits: about 1,000 x width parameters (default 1024; 97000 gives 100
         million); compass: about width^2 parameters (default 64; 10000 gives 100 million)""",
    )
    what.add_argument("--batch", type=int, default=64, help="questions per step (default %(default)s)")
    what.add_argument("--group", type=int, default=8, help="answers drawn for each question (default %(default)s)")
    what.add_argument(
        "--replay",
        type=int,
        default=1,
        help="""rollouts that the replay buffer keeps; 1 (default) is strictly one step off policy, more
         lets the Learner learn from older ones too""",
    )
    what.add_argument("--lr", type=float, help="Adam's step size (default: compass 3e-3, digits 2e-3)")
    what.add_argument(
        "--clip", type=float, default=0.2, help="how far the probability ratio counts (default %(default)s)"
    )
    what.add_argument(
        "--seed",
        type=int,
        default=0,
        help="the same seed gives the same rewards, with actors and without (default %(default)s)",
    )
    what.add_argument(
        "--eval-every", type=int, default=25, help="steps between looks at the held-out set (default %(default)s)"
    )

    how = parser.add_argument_group("how it runs")
    how.add_argument("--engine", choices=("beeline", "ray"), default="beeline", help="whose actors (default beeline)")
    how.add_argument("--plain", action="store_true", help="no actors at all: the same training in one process")
    how.add_argument(
        "--transport",
        help="""how tensors travel. beeline: auto (default), shm, cma, ucx, nixl, gloo, tcp; with --device cuda
         cuda_ipc (default), nccl; object_store with either. ray: object_store (default; no annotation), nixl, gloo;
         with --device cuda also cuda_ipc, nccl""",
    )
    how.add_argument(
        "--direct",
        choices=("weights", "all"),
        default="weights",
        help="what takes --transport: the weights (default), or the rollouts as well",
    )
    how.add_argument(
        "--sync",
        choices=("blocking", "nonblocking"),
        default="nonblocking",
        help="""whether the driver waits for the end of each step (blocking) or runs one step ahead of the actors
         (nonblocking, default)""",
    )
    how.add_argument(
        "--guard",
        choices=("auto", "snapshot", "wait"),
        default="auto",
        help="""what keeps the optimizer from writing to weights that are still being read, see below.
         auto (default): snapshot on beeline by auto and shm, wait by every other direct transport and on ray,
         none where values are copied""",
    )
    how.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where Learner and Generator compute (default cpu); only cuda asks for GPUs",
    )
    how.add_argument(
        "--gpus",
        type=float,
        help="with --device cuda: GPUs for each of the two (default 0.5: they share one; with nccl 1)",
    )
    how.add_argument("--threads", type=int, default=1, help="torch threads per process (default %(default)s)")
    how.add_argument(
        "--compare",
        action="store_true",
        help="""run the same steps three times, each in a fresh process: by --transport, by the object
         store, and --plain; then print them side by side""",
    )

    out = parser.add_argument_group("what is left behind")
    out.add_argument("--json", metavar="FILE", help="every figure of the run")
    out.add_argument("--png", metavar="FILE", help="reward curve and time per phase")
    out.add_argument("--quiet", action="store_true", help="no progress display")
    args = parser.parse_args(argv)

    for name in ("steps", "width", "lr"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(INPUTS[args.input], name))
    for name in ("steps", "width", "batch", "group", "replay", "eval_every", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    _choose_transport(parser, args)
    _choose_guard(parser, args)
    _choose_gpus(parser, args)
    return args


def _choose_transport(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    known = TRANSPORTS[args.engine]
    args.transport = (args.transport or next(name for name in known if args.device in known[name])).lower()
    if args.transport not in known:
        parser.error(f"--transport {args.transport}: on {args.engine} choose from {', '.join(known)}")
    if args.plain:
        return
    serves = known[args.transport]
    if args.device not in serves:
        others = ", ".join(name for name in known if args.device in known[name])
        parser.error(f"--transport {args.transport} moves no weights that --device {args.device} has: choose {others}")
    if args.direct == "all" and not serves >= HOST:
        parser.error(
            f"--direct all: rollouts lie in the host's memory, and {args.transport} moves that of GPUs; "
            "choose --direct weights, or --transport object_store"
        )


def _choose_guard(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.guard == "snapshot" and args.engine == "ray":
        parser.error("--guard snapshot: Ray has no isolation; choose wait")
    copies_by_value = args.plain or args.transport == "object_store"
    if args.guard == "snapshot" and not copies_by_value and args.transport not in SNAPSHOTS:
        parser.error(f"--guard snapshot: {args.transport} reads the Learner's memory as it is by then; choose wait")
    if copies_by_value:
        args.guard = "none"
    elif args.guard == "auto":
        args.guard = "snapshot" if args.engine == "beeline" and args.transport in SNAPSHOTS else "wait"


def _choose_gpus(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.device == "cpu":
        args.gpus = 0
        return
    if args.gpus is None:
        args.gpus = 1 if args.transport == "nccl" else 0.5
    seen = torch.cuda.device_count()
    if not seen:
        parser.error("--device cuda: torch sees no GPU here")
    if args.plain:
        return
    if not 0 < 2 * args.gpus <= seen:
        parser.error(f"--gpus {args.gpus:g} for each of the Learner and the Generator: torch sees {seen}")
    # An actor sees the GPU alone that it was given.
    if args.transport == "nccl" and args.gpus <= 0.5:
        parser.error("--transport nccl moves from one GPU to another one: choose --gpus 1")
    if args.transport == "cuda_ipc" and args.gpus > 0.5:
        parser.error("--transport cuda_ipc needs a GPU that both see: choose --gpus 0.5, or --transport nccl")
