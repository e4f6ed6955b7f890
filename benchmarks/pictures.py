"""The pictures of the documentation: a report, also on a narrow screen, and a feature card.

Run `python -m benchmarks.pictures`; it needs Chromium or Chrome and takes minutes.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from dictlearn.comparison.report.cards import cards_page
from dictlearn.comparison.report.html import REPORT_FILE
from dictlearn.core.errors import StorageError
from dictlearn.demo import DemoSize, demo_study
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.features import FeatureRecords
from dictlearn.studies.run import run_study

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SIZE = DemoSize(
    train_tokens=60_000, held_out_tokens=8_000, steps=300, batch_size=512, n_features=256,
    n_cards=3, concept_tokens=8_000,
)  # fmt: skip
"""A demo of a minute."""
FRAME = """<!doctype html><body style="margin: 0">
<iframe src="{page}" style="border: 0; width: {width}px; height: {height}px"></iframe>"""
DICTIONARY, CONCEPT = "transcoder", "speech verb"


def draw(folder: Path, pictures: Path = PICTURES) -> None:
    """Write the pictures of the demo in `folder`, which is run first if it is not there."""
    run_study(demo_study(size=SIZE), folder)
    report = (folder / REPORT_FILE).read_text(encoding="utf-8")
    card = cards_page(best_card(folder), "A feature card")
    pictures.mkdir(exist_ok=True)
    for name, size in (("report", (1280, 640)), ("report-narrow", (390, 786))):
        _photograph(report, "main > :not(#l0)", pictures / f"{name}.png", size)
    _photograph(card, "section > :not(details), summary", pictures / "card.png", (1000, 640))


def best_card(folder: Path) -> FeatureRecords:
    """The card of the transcoder's feature that detects speech verbs best, alone."""
    features, concepts = FeatureRecords.load(folder), ConceptRecords.load(folder)
    chosen = {
        (score.dictionary, score.candidate)
        for score in concepts.scores
        if (score.dictionary, score.concept, score.family) == (DICTIONARY, CONCEPT, "features")
    }
    cards = [card for card in features.cards if (card.dictionary, card.feature) in chosen]
    return replace(
        features, cards=cards, tokens=features.tokens | {"chosen": f"best for {CONCEPT}"}
    )


def _photograph(source: str, hidden: str, picture: Path, size: tuple[int, int]) -> None:
    """Write a picture of a page, without the elements that a CSS selector names.

    The page is in a frame, since no window of Chromium is narrower than 500 pixels.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise StorageError("required Chromium or Chrome on the path, found neither; install one")
    style = f"<style>{hidden} {{ display: none; }} main h2 {{ margin-top: 0; }}</style></head>"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(source.replace("</head>", style, 1), encoding="utf-8")
        frame = Path(folder) / "frame.html"
        frame.write_text(FRAME.format(page=page.name, width=size[0], height=size[1]))
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--virtual-time-budget=15000", f"--user-data-dir={Path(folder) / 'profile'}",
             f"--window-size={size[0]},{size[1]}", f"--screenshot={picture.resolve()}",
             frame.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pictures"))
