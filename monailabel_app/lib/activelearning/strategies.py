"""Next sample: `disagreement`, `random` and `first`, as MONAI Label's strategies."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.activelearning.diversity import drawn, greedy_order, spread_order, typical_distance
from lib.activelearning.reservations import Reservations
from lib.activelearning.scores import ScoreReader, Scores
from lib.errors import RequestError

__all__ = ["Disagreement", "First", "Random", "all_strategies"]

NO_SCORES = "there are no scores to go by: scans are offered spread over the list of names"
# An image, and what is told about it: "reason", and numbers where there are any.
Choice = tuple[str, dict[str, Any]]


def all_strategies(
    reservations: Reservations,
    source: Callable[[], tuple[str, Path] | None],
    unusable: Callable[[], Mapping[str, str]] = dict,
) -> dict[str, _Reserving]:
    """All strategies by name, the default first; they share the reservations.

    Args:
        reservations: who has which scan open.
        source: see `lib.activelearning.scores.ScoreReader`.
        unusable: scans that a training had to leave out, and why.
    """
    strategies = {
        "disagreement": Disagreement(reservations, ScoreReader(source)),
        "random": Random(reservations),
        "first": First(reservations),
    }
    for strategy in strategies.values():
        strategy.unusable = unusable
    return strategies


class _Reserving(Strategy):
    """Chooses among the unlabeled scans that nobody else has open, and keeps the chosen one for the client.

    The answer: "id", "reason", "reserved_until" (seconds since 1970), "note" where something is unusual, and numbers
    of the strategy. Nothing left to label: {}.
    """

    def __init__(self, description: str, reservations: Reservations) -> None:
        super().__init__(description)
        self.reservations = reservations
        self.unusable: Callable[[], Mapping[str, str]] = dict

    @abstractmethod
    def order(self, images: Sequence[str], labeled: Sequence[str], taken: Sequence[str]) -> Iterator[Choice]:
        """The scans ``images``, best first, lazily; ``taken`` are those that others have open."""

    def best_first(self, images: Sequence[str], labeled: Sequence[str], taken: Sequence[str]) -> Iterator[Choice]:
        """``order``, with the scans behind all others that cannot be trained on."""
        unusable = self.unusable()
        yield from self.order([image for image in images if image not in unusable], labeled, taken)
        for image in sorted(image for image in images if image in unusable):
            yield image, {"reason": f"cannot be trained on: {unusable[image]}"}

    def note(self) -> str:
        """What a reader should know about this strategy at the moment; "" if nothing."""
        return ""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """The next scan for the client of a request (keys "client_id", "label_tag", "labels"; all others are ignored).

        Raises:
            RequestError: a key of a wrong kind.
        """
        client = _text(request, "client_id") or ""
        images, labeled = _split(datastore, _text(request, "label_tag"), _labels(request))
        chosen: dict[str, dict[str, Any]] = {}

        def choose(free: Sequence[str], others: Sequence[str]) -> str:
            image, told = next(self.best_first(free, labeled, others))
            chosen[image] = told
            return image

        offer = self.reservations.offer(client, images, choose)
        if offer is None:
            return {}
        told = chosen.get(offer.image) or next(self.best_first([offer.image], labeled, []))[1]
        note = "; ".join(part for part in (offer.note, self.note()) if part)
        return {"id": offer.image, **told, "reserved_until": offer.until} | ({"note": note} if note else {})

    def queue(self, datastore: Datastore, limit: int = 20) -> list[dict[str, Any]]:
        """The scans that are open ("client", "reserved_until"), then the next ones, with reasons; for a page."""
        images, labeled = _split(datastore, None, None)
        held = self.reservations.current()
        taken = sorted((image for image in images if image in held), key=lambda image: held[image].since)
        rows = [
            {"id": image, "reason": "open", "client": held[image].client, "reserved_until": held[image].until}
            for image in taken
        ]
        if len(rows) < limit:
            free = [image for image in images if image not in held]
            following = self.best_first(free, labeled, taken)
            rows += [{"id": image, **told} for (image, told), _ in zip(following, range(limit - len(rows)))]  # noqa: B905
        return rows[:limit]


class Disagreement(_Reserving):
    """The scan about which the 2D and the 3D network disagree most, unless it looks like one that is labeled or open.

    Scans without a score (they arrived later, or neither network sees anything in them) get the disagreement of a
    scored one that is drawn once from their name, so that they come as often as if they had been scored. Scans that
    could not be read come last. Without any scores: spread over the list of names.

    Args:
        reservations: who has which scan open.
        scores: the newest ones, None where there are none; called at every request.
    """

    def __init__(self, reservations: Reservations, scores: Callable[[], Scores | None]) -> None:
        super().__init__("Where the 2D and the 3D network disagree most, without look-alikes", reservations)
        self.scores = scores

    def note(self) -> str:
        return "" if _usable(self.scores()) else NO_SCORES

    def order(self, images: Sequence[str], labeled: Sequence[str], taken: Sequence[str]) -> Iterator[Choice]:
        scores = self.scores()
        if not _usable(scores):
            for image in spread_order(images, [*labeled, *taken]):
                yield image, {"reason": "no scores yet, far in the list from scans that are labeled or open"}
            return
        faulty = [image for image in images if image in scores.faults]
        sound = [image for image in images if image not in scores.faults]
        ranks = _ranks(scores, [*sound, *taken])
        interest = {image: _interest(image, scores) for image in sound}
        near = [*labeled, *taken]
        passed_over = {image for image in sound if image in ranks}
        for ranked in greedy_order(interest, scores.features, near, typical_distance(scores.features)):
            image = ranked.name
            passed_over.discard(image)
            if image in ranks:
                unlike = any(ranks[other] < ranks[image] for other in passed_over)
                yield image, _reason(scores, image, ranks[image], len(ranks), unlike)
            else:
                yield image, {"reason": _why_unranked(scores, image), "version": scores.version}
        for image in sorted(faulty):
            yield image, {"reason": f"could not be scored ({scores.faults[image]})", "version": scores.version}


class First(_Reserving):
    """The first scan by name."""

    def __init__(self, reservations: Reservations) -> None:
        super().__init__("The first unlabeled scan by name", reservations)

    def order(self, images: Sequence[str], labeled: Sequence[str], taken: Sequence[str]) -> Iterator[Choice]:
        for image in sorted(images):
            yield image, {"reason": "first by name"}


class Random(_Reserving):
    """Any scan, each as likely as the others.

    Args:
        reservations: who has which scan open.
        rng: to draw with; None: from the system.
    """

    def __init__(self, reservations: Reservations, rng: random.Random | None = None) -> None:
        super().__init__("An unlabeled scan at random", reservations)
        self.rng = rng or random.SystemRandom()

    def order(self, images: Sequence[str], labeled: Sequence[str], taken: Sequence[str]) -> Iterator[Choice]:
        for image in self.rng.sample(sorted(images), len(images)):
            yield image, {"reason": "drawn at random"}


def _usable(scores: Scores | None) -> bool:
    return scores is not None and any(value is not None for value in scores.disagreement.values())


def _ranks(scores: Scores, images: Sequence[str]) -> dict[str, int]:
    """Place by disagreement, 1 the largest, of the unlabeled scans that have one."""
    known = [image for image in images if scores.disagreement.get(image) is not None]
    known.sort(key=lambda image: (-scores.disagreement[image], image))
    return {image: place for place, image in enumerate(known, start=1)}


def _interest(image: str, scores: Scores) -> float:
    value = scores.disagreement.get(image)
    if value is None:
        values = [known for known in scores.disagreement.values() if known is not None]
        value = float(np.quantile(values, drawn(image)))
    return value


def _reason(scores: Scores, image: str, rank: int, count: int, unlike: bool) -> dict[str, Any]:
    value = scores.disagreement[image]
    text = f"disagreement {value:.2f}, rank {rank} of {count}"
    text += "; those above it look like scans that are labeled, open or offered before" if unlike else ""
    return {"reason": text, "disagreement": value, "rank": rank, "of": count, "version": scores.version}


def _why_unranked(scores: Scores, image: str) -> str:
    seen = image in scores.disagreement
    return f"{'neither network sees anything in it' if seen else 'not scored yet'}; its place is drawn"


def _split(datastore: Datastore, tag: str | None, labels: list[str] | None) -> tuple[list[str], list[str]]:
    """Unlabeled and labeled scans, sorted: a DICOM store gives them in the order of a set."""
    images = sorted(datastore.get_unlabeled_images(tag, labels))
    return images, sorted(set(datastore.list_images()) - set(images))


def _text(request: Mapping[str, Any], key: str) -> str | None:
    value = request.get(key)
    if value is not None and (not isinstance(value, str) or len(value) > 200):
        raise RequestError(400, f'"{key}" must be a text of at most 200 characters.')
    return value


def _labels(request: Mapping[str, Any]) -> list[str] | None:
    """Slicer reduces a list to its first element; other clients send a list, or names with indices."""
    value = request.get("labels")
    if value is None or value == "":
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple, dict)) or not all(isinstance(name, str) for name in names):
        raise RequestError(400, '"labels" must be a list of names.')
    return list(names)
