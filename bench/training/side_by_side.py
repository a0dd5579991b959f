"""The steps of several groups. The members of a committee go on side by side, each on its share of the threads.

A step of one small model keeps two threads busy for two thirds of its time; two models on a thread each, for all of it.
"""

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from types import TracebackType

import torch

from bench.training.groups import Group

STRETCH = 16
"""Minibatches after which groups that go side by side wait for each other, for a checkpoint or a signal."""


class SideBySide:
    """Does the steps of groups; `at_once` says of each how many of its kind go side by side, 1 for none.

    That is taken from the settings of each training and not from what is trained beside it, so that its numbers do not
    depend on that either, where products round differently on another number of threads.
    """

    def __init__(self, groups: Sequence[Group], at_once: Sequence[int]) -> None:
        self.stretch = STRETCH if max(at_once) > 1 else 1
        self._groups: dict[int, list[Group]] = {}
        for group, number in zip(groups, at_once, strict=True):
            self._groups.setdefault(number, []).append(group)
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._open = ExitStack()

    def __enter__(self) -> "SideBySide":
        threads = torch.get_num_threads()
        self._open.callback(torch.set_num_threads, threads)  # what threads that come later begin with
        for number in self._groups:
            if number > 1:
                pool = ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(threads // number,))
                self._pools[number] = self._open.enter_context(pool)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def step(self, first: int, stop: int, n_steps: int) -> None:
        """The minibatches `first` to `stop` - 1, of `n_steps` in the whole training, of every group."""

        def one(group: Group, minibatch: int) -> tuple[Group, int]:
            group.step(minibatch, minibatch / n_steps)
            return group, minibatch + 1

        for number, groups in self._groups.items():
            if number == 1:
                for minibatch in range(first, stop):
                    for group in groups:
                        one(group, minibatch)
                continue
            pool = self._pools[number]
            running: set[Future[tuple[Group, int]]] = {pool.submit(one, group, first) for group in groups}
            while running:
                # a pool takes them in order: the group that has waited longest comes next
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for group, minibatch in (future.result() for future in done):
                    if minibatch < stop:
                        running.add(pool.submit(one, group, minibatch))
