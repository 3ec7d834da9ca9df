"""Traced residual additions against labels made by hand from timm's source."""

import pytest
from truth import ATTENTION, RESIDUAL_ADDITIONS

from se_search import find_sites
from se_search.network.sites import trace_backbone


@pytest.mark.parametrize("name", RESIDUAL_ADDITIONS)
def test_residual_additions_are_those_labelled_by_hand(name):
    found = [(one.block, one.channels, one.layout) for one in trace_backbone(name).additions]
    assert found == [tuple(addition) for addition in RESIDUAL_ADDITIONS[name]]


@pytest.mark.parametrize("name", ATTENTION)
def test_all_attention_that_runs_is_a_site(name):
    assert len(find_sites(name, position="existing")) == ATTENTION[name]
