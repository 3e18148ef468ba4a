"""Which classes come in which batch: two card decks dealt in hands, each a function of the step.

A hand is the P classes of one batch. `EvenDeck` gives every class once per pass; `WeightedDeck`
gives each class its own whole number of visits per pass. Both deal P distinct classes a hand and
number each class's visits 0, 1, 2, ... without a gap, so that images can be used evenly.
"""

from __future__ import annotations

import math

import numpy as np

from longtail_tf.sampling.permutations import seeded_orders, stream_key

_FINE = 256  # parts of a visit that a class weight is rounded to
# The parts by which pass p mod 256 rounds up: each once, any few in a row spread over the range,
# so that a class that should come 1.5 times a pass comes once and twice by turns.
_ROUNDING = np.arange(_FINE) * 159 % _FINE


class EvenDeck:
    """Every card exactly once per pass, cards of one hand distinct, passes back to back.

    Pass p is a seeded order of all cards on the slots p * size .. (p + 1) * size - 1; hand t holds
    the slots t * hand .. (t + 1) * hand - 1. Where a hand straddles two passes, a card of the later
    pass that the hand already holds trades places with a later card of its own pass. That needs
    the end of the pass before. When two hands fit into a pass, the trade never reaches the end of
    a pass, so the raw order of the pass before is enough; else the few passes since a hand last
    began with a pass are made in turn (at most `hand` of them, each smaller than two hands).
    """

    def __init__(self, size: int, hand: int, key: int):
        self.size = size
        self.hand = hand
        self._key = key
        self._chained = size < 2 * hand
        self._period = hand // math.gcd(size, hand)  # passes until a hand begins with a pass again
        self._recent: dict[int, np.ndarray] = {}  # replaced as a whole, never changed in place

    def deal(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Cards of the hands start .. start + count - 1.

        Returns:
            Cards int32 [count, hand] and the visit number of each (its pass), int64.
        """
        begin, end = start * self.hand, (start + count) * self.hand
        first, last = begin // self.size, (end - 1) // self.size
        orders = self._orders(first, last)
        # No copy of a large pass for the few cards of one block.
        passes = [orders[p] for p in range(first, last + 1)]
        cards = passes[0] if len(passes) == 1 else np.concatenate(passes)
        skipped = first * self.size
        cards = cards[begin - skipped : end - skipped].reshape(count, self.hand)
        visits = np.arange(begin, end, dtype=np.int64) // self.size
        return cards, visits.reshape(count, self.hand)

    def visits_before(self, step: int) -> np.ndarray:
        """How often each card came in the hands 0 .. step - 1, int64 [size]."""
        passes, left = divmod(step * self.hand, self.size)
        visits = np.full(self.size, passes, np.int64)
        visits[self._orders(passes, passes)[passes][:left]] += 1
        return visits

    @property
    def steps_per_pass(self) -> int:
        """Hands until every card has come once."""
        return -(-self.size // self.hand)

    def rates(self) -> np.ndarray:
        """Expected visits of each card per hand, float64 [size]."""
        return np.full(self.size, self.hand / self.size)

    def _shared_slots(self, number: int) -> int:
        """Slots before pass `number` that lie in the same hand as its first card."""
        return number * self.size % self.hand if self.hand <= self.size else 0

    def _orders(self, first: int, last: int) -> dict[int, np.ndarray]:
        recent = self._recent
        begin = first
        if self._chained and self.hand <= self.size:
            begin -= first % self._period
            begin = max([begin, *(p for p in recent if begin <= p <= first)])
        orders = {}
        while begin <= last and begin in recent:
            orders[begin] = recent[begin]
            begin += 1
        if begin <= last:
            fresh = seeded_orders(self._key, begin, last - begin + 1, self.size)
            for number, order in zip(range(begin, last + 1), fresh):
                shared = self._shared_slots(number)
                if shared:
                    before = orders.get(number - 1)
                    if before is None:
                        before = seeded_orders(self._key, number - 1, 1, self.size)[0]
                    self._trade(order, before[-shared:])
                orders[number] = order
            self._recent = {p: orders[p] for p in sorted(orders)[-2:]}
        return orders

    def _trade(self, order: np.ndarray, held: np.ndarray) -> None:
        """Moves the cards in `held` out of the first slots of `order`, which share its hand."""
        taken = np.zeros(self.size, bool)
        taken[held] = True
        head = self.hand - len(held)
        clashes = np.flatnonzero(taken[order[:head]])
        if not len(clashes):
            return
        # Of the next len(held) cards at most len(held) - len(clashes) are taken as well.
        partners = head + np.flatnonzero(~taken[order[head : self.hand]])[: len(clashes)]
        order[clashes], order[partners] = order[partners], order[clashes]


class WeightedDeck:
    """Cards that come in proportion to their weight, cards of one hand distinct.

    A card's rate is its weight times a common factor, at most once per hand; what that cap takes
    from the heaviest goes to the others. A pass is L hands, L so large that the lightest card comes
    at least once. Lay the cards of a pass in a row in seeded order, each as long as its number
    of visits (at most L), and cut the row into `hand` strips of L: hand t takes one place from each
    strip, the same place in all of them. Places in a hand are L apart, so no card is met twice, and
    over the pass every place is met once. The place moves on by about L / golden ratio each
    hand, which spreads a card's visits evenly. Visits of a pass are a rate's whole number
    below or above, rounded so that the sum stays and that 256 passes meet the rate exactly.

    Memory: 20 bytes a card.
    """

    def __init__(self, weights: np.ndarray, hand: int, key: int):
        self.size = len(weights)
        self.hand = hand
        self._key = key
        rates, capped = _capped_rates(np.asarray(weights, np.float64), hand)
        self.steps_per_pass = math.ceil((1 + 2 / _FINE) / rates.min())
        fine = np.full(self.size, _FINE * self.steps_per_pass, np.int64)
        if not capped.all():
            edges = np.cumsum(rates[~capped])
            edges *= _FINE * self.steps_per_pass * (hand - int(capped.sum())) / edges[-1]
            fine[~capped] = np.diff(np.rint(edges).astype(np.int64), prepend=0)
        self._edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(fine)])
        golden = (math.sqrt(5) - 1) / 2
        self._stride = _coprime_near(self.steps_per_pass * golden, self.steps_per_pass)
        # [q, r]: how many of the first q passes of a round carry a rest of r over to a visit.
        carries = (_ROUNDING[:, None] + np.arange(_FINE)) >= _FINE
        self._carries = np.concatenate([np.zeros((1, _FINE), np.int64), np.cumsum(carries, axis=0)])
        self._recent: tuple = (-1, None, None)

    def deal(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Cards int32 [count, hand] of the hands start .. and the visit number of each, int64."""
        hands, visits = [], []
        while count:
            number, step = divmod(start, self.steps_per_pass)
            here = min(count, self.steps_per_pass - step)
            order, ends = self._pass(number)
            steps = np.arange(step, step + here, dtype=np.int64)
            shift = stream_key(self._key, number) % self.steps_per_pass
            places = (steps * self._stride + shift) % self.steps_per_pass
            places = places[:, None] + np.arange(self.hand) * self.steps_per_pass
            found = np.searchsorted(ends, places, side="right")
            cards = order[found]
            later = ends[found] - places  # 1 for a card's last visit in this pass
            hands.append(cards)
            visits.append(self._visits_before_pass(number + 1, cards) - later)
            start += here
            count -= here
        return np.concatenate(hands), np.concatenate(visits)

    def visits_before(self, step: int) -> np.ndarray:
        """About how often each card came in the hands 0 .. step - 1, int64 [size].

        Exact at the end of a pass; inside one in proportion, a visit or two off.
        """
        number, left = divmod(step, self.steps_per_pass)
        cards = np.arange(self.size)
        before = self._visits_before_pass(number, cards)
        coming = self._visits_before_pass(number + 1, cards) - before
        return before + np.rint(coming * (left / self.steps_per_pass)).astype(np.int64)

    def rates(self) -> np.ndarray:
        """Visits of each card per hand, float64 [size], 0 .. 1; they sum to `hand`."""
        return np.diff(self._edges) / (_FINE * self.steps_per_pass)

    def _visits_before_pass(self, number: int, cards: np.ndarray) -> np.ndarray:
        """Visits of each card in the passes 0 .. number - 1."""
        return self._places_before_pass(number, cards + 1) - self._places_before_pass(number, cards)

    def _places_before_pass(self, number: int, edges: np.ndarray) -> np.ndarray:
        """Sum over the passes p < number of floor((edge + rounding of p) / 256)."""
        edges = self._edges[edges]
        rounds, left = divmod(number, _FINE)
        # Over a whole round the sum is the edge itself (Hermite's identity).
        return rounds * edges + left * (edges // _FINE) + self._carries[left][edges % _FINE]

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the cards int32 [size] and the end of each one's places in the row, int64."""
        cached, order, ends = self._recent
        if cached != number:
            order = seeded_orders(self._key, number, 1, self.size)[0]
            ends = np.diff((self._edges + _ROUNDING[number % _FINE]) // _FINE)[order]
            np.cumsum(ends, out=ends)
            self._recent = (number, order, ends)
        return order, ends


def _capped_rates(weights: np.ndarray, hand: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates in proportion to weights, at most 1, that sum to `hand`; and which ones are at 1."""
    falling = np.sort(weights)[::-1]
    rest = np.cumsum(falling[::-1])[::-1]  # rest[m]: all weights but the m heaviest
    heaviest = np.arange(hand)
    fits = falling[:hand] * (hand - heaviest) <= rest[:hand] * (1 + 1e-12)
    if len(weights) == hand or not fits.any():
        return np.ones(len(weights)), np.ones(len(weights), bool)
    num_capped = int(np.argmax(fits))
    factor = (hand - num_capped) / rest[num_capped]
    rates = np.minimum(weights * factor, 1.0)
    capped = np.zeros(len(weights), bool)
    capped[np.argsort(-weights, kind="stable")[:num_capped]] = True
    return rates, capped


def _coprime_near(target: float, modulus: int) -> int:
    """The whole number nearest to `target` that shares no factor with `modulus`."""
    middle = round(target)
    for distance in range(modulus + 1):
        for number in (middle - distance, middle + distance):
            if number > 0 and math.gcd(number, modulus) == 1:
                return number
    return 1
