import dataclasses

import pytest
import torch

from cryorefine.records.particle_tables import QUALITY_COLUMNS
from cryorefine.state.scores import ParticleScores, measured


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_every_column_has_a_label_in_the_particle_table_and_the_other_way_about():
    assert {field.name for field in dataclasses.fields(ParticleScores)} == set(QUALITY_COLUMNS)


def test_only_columns_that_were_measured_are_there():
    scores = ParticleScores(weight=values(1, 2), score=values(3, 4))
    assert list(scores.columns()) == ["score", "weight"]
    assert ParticleScores().columns() == {}


def test_columns_are_all_of_as_many_particles():
    with pytest.raises(TypeError):
        ParticleScores(score=values(1, 2), weight=values(1, 2, 3))


def test_selected_scores_are_those_of_the_chosen_particles():
    scores = ParticleScores(score=values(1, 2, 3), weight=values(4, 5, 6))
    by_index = scores.select(torch.tensor([2, 0]))
    assert by_index.score.tolist() == [3, 1]
    assert by_index.weight.tolist() == [6, 4]
    assert by_index.gap is None
    assert scores.select(torch.tensor([False, True, False])).weight.tolist() == [5]


def test_joined_scores_follow_each_other():
    parts = [ParticleScores(score=values(1, 2)), ParticleScores(score=values(3))]
    assert ParticleScores.join(parts).score.tolist() == [1, 2, 3]
    assert ParticleScores.join([ParticleScores(), ParticleScores()]).columns() == {}


def test_scores_with_different_columns_cannot_be_joined():
    parts = [ParticleScores(score=values(1)), ParticleScores(score=values(1), gap=values(2))]
    for order in (parts, parts[::-1]):
        with pytest.raises(ValueError, match="different columns"):
            ParticleScores.join(order)


def test_updated_scores_keep_the_others_and_do_not_know_what_was_never_measured():
    before = ParticleScores(score=values(1, 2, 3), imed=values(7, 8, 9))
    part = ParticleScores(score=values(5), weight=values(6))
    after = before.updated(torch.tensor([1]), part, 3)
    assert after.score.tolist() == [1, 5, 3]
    assert after.weight.isnan().tolist() == [True, False, True]
    assert after.imed is None  # of an earlier iteration
    assert before.score.tolist() == [1, 2, 3]


def test_replaced_columns_leave_the_others():
    before = ParticleScores(score=values(1), gap=values(2))
    after = before.replace(gap=None, weight=values(3))
    assert list(after.columns()) == ["score", "weight"]
    assert before.gap.tolist() == [2]


def test_a_column_that_must_be_there_is_told_to_be_missing():
    assert measured(values(1)).tolist() == [1]
    with pytest.raises(ValueError, match="not been measured"):
        measured(ParticleScores().weight)
