"""The cases of direct_transport by NIXL on both engines, as a program that was written for Ray names it."""

import functools

from outcome import full

from cases import direct_transport


def _by_nixl(case):
    @full
    @functools.wraps(case)
    def by_nixl(ray):
        before = dict(direct_transport.TRANSPORTS)
        direct_transport.TRANSPORTS.update(beeline="nixl")
        try:
            return case(ray)
        finally:
            direct_transport.TRANSPORTS.update(before)

    return by_nixl


for _name, _case in list(vars(direct_transport).items()):
    if _name.startswith("case_"):
        globals()[_name] = _by_nixl(_case)
