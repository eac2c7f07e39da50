"""Images as tokens."""

from breadth.models.making import linen, model

from npk import networks

IMAGES = "transformers of images and their kin"


@model(IMAGES, "`ViT`")
def _():
    return linen(networks.ViT((1, 2), 2, 1, 1, hidden=1, outputs=1), 5, 2, 2, 1)


@model(IMAGES, "`ViT`, class token")
def _():
    return linen(networks.ViT((1, 2), 2, 1, 1, hidden=1, outputs=1, pooling="cls"), 5, 2, 2, 1)


@model(IMAGES, "`MLPMixer`")
def _():
    return linen(networks.MLPMixer((1, 2), 2, 1, 1, 1, outputs=1), 5, 2, 2, 1)


@model(IMAGES, "`ConvNeXt`")
def _():
    return linen(networks.ConvNeXt(width=1, depths=(1,), stem=1, window=2, outputs=1), 4, 2, 2, 1)
