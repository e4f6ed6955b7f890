"""The tables of single concepts."""

import math
from dataclasses import replace

from dictlearn.comparison.statistics.precision import precision_frame
from dictlearn.comparison.tables.concepts import concept_tables, precision_table
from dictlearn.pages import card_id
from dictlearn.records.concepts import Family


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_a_row_has_the_feature_its_scores_and_its_control(concepts):
    first, second = concept_tables(concepts)
    assert first.title == "Concepts and features of d"
    assert first.headings == [
        "concept", "pattern", "feature", "average precision", "best random feature", "difference",
        "precision", "recall", "chance level",
    ]  # fmt: skip
    comma, she = texts(first)
    assert comma == ["comma", "<,>", "0", "0.90 (0.90 to 0.90)", "0.60", "+0.30 (+0.20 to +0.40)",
                     "0.50", "0.40", "0.100"]  # fmt: skip
    assert (she[0], she[5], she[6]) == ("she", "≈ 0 (-0.10 to +0.30)", "–"), "not significant"
    assert first.rows[1][5].hover == "+0.20 (-0.10 to +0.30)"
    assert texts(second)[0][5] == "≈ 0 (-0.20 to +0.10)"
    assert first.rows[0][6].hover == "0.50 (0.50 to 0.50)"


def test_the_best_detected_come_first_and_the_undefined_last(concepts, make_score):
    more = [make_score("day", "features", 0.7), make_score("none", "features", math.nan)]
    (table, _) = concept_tables(replace(concepts, scores=[*more, *concepts.scores]))
    assert [row[0] for row in texts(table)] == ["comma", "day", "she", "none"]
    assert texts(table)[1][4:6] == ["–", "–"], "without a control"


def test_features_lead_to_their_cards_if_there_are_any(concepts):
    known = {card_id("d", 0)}
    first, second = concept_tables(concepts, known)
    assert [row[2].link for row in first.rows] == ["card-d-0"] * 2
    assert [row[2].link for row in second.rows] == [""]


def test_long_patterns_are_whole_on_hover_and_a_negative_detector_has_a_sign(concepts):
    own = replace(concepts.scores[0], sign=-1)
    long = replace(concepts, scores=[own], patterns={"comma": "x" * 50})
    (table,) = concept_tables(long)
    (row,) = table.rows
    assert (row[1].text, row[1].hover) == ("x" * 19 + "…", "x" * 50)
    assert row[2].text == "-0"
    assert table.headings[4:] == ["precision", "recall", "chance level"], "there is no control"


def test_the_table_of_all_has_the_main_columns_first_and_differences_in_one(concepts):
    frame = precision_frame(concepts)
    table = precision_table(frame)
    assert table.headings[:7] == [
        "dictionary", "baseline", "concepts", "average precision of features",
        "average precision of baseline", "difference", "features better",
    ]  # fmt: skip
    assert texts(table)[0][:3] == ["d", "random", "2"]
    row = frame.loc[("d", "random")]
    ends = f"({row.difference_low:+.3f} to {row.difference_high:+.3f})"
    assert texts(table)[0][5] == f"≈ 0 {ends}"
    assert table.rows[0][5].hover == f"+0.250 {ends}"
    assert len(table.groups) == 2
    frame[["random_better", "baseline_recall"]] = math.nan
    assert len(precision_table(frame).columns) == len(table.columns) - 2, "empty ones go"


def test_the_best_features_of_a_dictionary_are_listed_once(concepts):
    third = replace(concepts.scores[0], concept="day", candidate=5)
    neuron = replace(third, family=Family.NEURONS, candidate=9)
    found = replace(concepts, scores=[*concepts.scores, third, neuron]).best_features()
    assert found == {"d": [0, 5], "<other>": [0]}
