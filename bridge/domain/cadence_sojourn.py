"""The time that runs of one workflow stay in one status, learned from what polls saw."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from bridge.domain.cadence_estimate import Estimate
from bridge.domain.cadence_grid import CELLS, EDGES_S, cell_at, covered_shares, kernel_decay, log_logistic, smooth

KERNELS: Final = tuple(kernel_decay(width) for width in (0.015, 0.05, 0.15, 0.5))
MEMORY = 0.985
SCORE_MEMORY = 0.97
PRIOR_RUNS = 0.3
EM_SHARE = 0.9
CHANGE = 0.0   # share of prior in spreading
SHRINK = 0.25
STREAK = 4
CUSUM = 1e9
GENERAL_PRIOR = tuple(log_logistic(30.0, 1.2))


class Sojourn:
    def __init__(self, prior=None):
        self._weights: dict[int, float] = {}
        self.runs = 0.0
        self._scores = [0.0] * len(KERNELS)
        self._streak = 0
        self._cusum = 0.0
        self._prior = prior
        self._estimate = None
        self._experts = []

    @property
    def is_stale(self):
        return self._estimate is None

    @property
    def estimate(self):
        return self._estimate or self.refit()

    def prior_mass(self):
        q = self._prior
        if q is None or not q.runs:
            return GENERAL_PRIOR
        w = q.runs / (q.runs + 2)
        return [w * a + (1 - w) * b for a, b in zip(smooth(q.estimate.mass, KERNELS[-1]), GENERAL_PRIOR)]

    def refit(self, in_flight=()):
        prior = self.prior_mass()
        self._pm = prior
        e = PRIOR_RUNS / (self.runs + PRIOR_RUNS)
        x = [0.0] * CELLS
        for k, v in self._weights.items():
            x[k] = v
        if self.runs:
            self._experts = [[(1 - e) * v + e * b for v, b in zip(smooth(x, a), prior)] for a in KERNELS]
        else:
            self._experts = [list(prior) for _ in KERNELS]
        top = max(self._scores)
        wt = [math.exp(v - top) for v in self._scores]
        p = [sum(w * v for w, v in zip(wt, col)) for col in zip(*self._experts)]
        z = sum(p)
        p = [v / z for v in p]
        p = self._censor(p, in_flight)
        self._estimate = Estimate(p)
        return self._estimate

    def _censor(self, p, in_flight):
        add = {}
        if not in_flight: return p
        alive = list(accumulate(reversed(p), initial=0.0))[::-1]
        for a in in_flight:
            c = min(cell_at(a) + 1, CELLS - 1)
            add[c] = add.get(c, 0.0) + 1 / max(alive[c], 1e-9)
        acc = 0.0
        out = []
        for i in range(CELLS):
            acc += add.get(i, 0.0)
            out.append(p[i] * (self.runs + 1 + acc))
        return out

    def observe(self, lo, hi):
        est = self.estimate
        first, share = covered_shares(lo, hi)
        mass = est.mass
        for b, q in enumerate(self._experts):
            self._scores[b] = round(self._scores[b] * SCORE_MEMORY + math.log(max(sum(q[first + k] * v for k, v in enumerate(share)), 1e-12)), 3)
        m = [mass[first + k] * v for k, v in enumerate(share)]
        pr = [self._pm[first + k] * v for k, v in enumerate(share)]
        sm, sp = sum(m), sum(pr)
        pit = 1 - est._alive[first] + sm / 2
        self._streak = max(self._streak, 0) + 1 if pit > .9 else min(self._streak, 0) - 1 if pit < .1 else 0
        self._cusum = max(0.0, self._cusum + math.log(max(sp, 1e-12) / max(sm, 1e-12)))
        g = MEMORY
        if abs(self._streak) >= STREAK or self._cusum > CUSUM:
            g, self._streak, self._cusum = SHRINK, 0, 0.0
        o = [v * (EDGES_S[first + k + 1] - EDGES_S[first + k]) for k, v in enumerate(share)]
        u = sum(o)
        self._weights = {k: w * g for k, w in self._weights.items() if w * g > 1e-4}
        self.runs = self.runs * g + 1
        mix = [(1 - CHANGE) * a + CHANGE * b for a, b in zip(m, pr)]
        sx = sum(mix) or 1e-12
        for k in range(len(o)):
            self._weights[first + k] = self._weights.get(first + k, 0.0) + (1 - EM_SHARE) * o[k] / u + EM_SHARE * mix[k] / sx
        self._estimate = None
        self._last = est
        if self._prior is not None:
            self._prior.observe(lo, hi)
