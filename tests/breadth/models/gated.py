"""Gated networks."""

import dataclasses
import functools

import jax
from breadth.models.layers import MLP, mlp
from breadth.models.making import Model, drawn, model, plain

import npk

GATED = "gated networks"


def two(make: Model, transform) -> Model:
    params = {"feature": drawn(MLP), "value": jax.tree.map(lambda a: a[::-1], drawn(MLP))}
    return dataclasses.replace(make, f=transform(make.f), params=params)


@model(GATED, "`DGN`")
def _():
    return two(plain(mlp, 2, 3, **MLP), npk.DGN)


@model(GATED, "`DGN`, soft gates")
def _():
    return two(plain(mlp, 2, 3, **MLP), functools.partial(npk.DGN, beta=4.0))


@model(GATED, "`DLGN`")
def _():
    return two(plain(mlp, 2, 3, **MLP), npk.DLGN)


@model(GATED, "`DLGN_SF`")
def _():
    features = [drawn({"kernel": (3, n), "bias": (n,)}) for n in (4, 3)]
    one = two(plain(mlp, 2, 3, **MLP), npk.DLGN_SF)
    return dataclasses.replace(one, params={**one.params, "feature": features})
