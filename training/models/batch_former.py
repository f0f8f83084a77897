"""BatchFormer: records of a batch attend to each other in training, so that rare classes learn from frequent ones
(Hou, Yu and Tao 2022, arXiv 2203.01522).

    features  [X; T(X)]        labels  [y; y]        one classifier on both

T is one transformer encoder layer over the batch dimension: 4 heads, feed-forward width C, dropout 0.5, as in the paper. In
eval mode features and labels pass unchanged, so that it costs nothing in use and a record's output is its own. Its place is
between the features (N, C) and the classifier.

It changes what training means for a record: the loss of one depends on the others of its batch. So gradients are not sums over
records, per-record clipping (DP-SGD) does not bound what one record changes, and in data-parallel training a record meets only
its own worker's batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="batch-former",
    title="BatchFormer: a transformer layer over the batch",
    paper="Hou, Yu, Tao 2022, arXiv 2203.01522",
    where="zkaudit.training.models.batch_former.BatchFormer",
    changes=("model", "batch"),
    effect="Higher accuracy on rare classes of long-tailed data, at no cost when the trained model is used.",
    library="",
    provable="Not yet: the layer's softmax and layer normalisation are outside the relations.",
    server_sees="A gradient in which records are mixed: no sum over records, so methods that part it by record see less; "
    "per-record clipping does not apply.",
    use="""
former = BatchFormer(width=512)
features, labels = former(body(x), labels)
loss = F.cross_entropy(classifier(features), labels)
""",
    avoid=(
        "plain cross entropy, with which it lost accuracy in our check, and DP-SGD or whatever else needs gradients "
        "of single records"
    ),
)


class BatchFormer(nn.Module):
    """The layer. `forward` takes features (N, C) and labels (N, ...) and returns (2N, C) and (2N, ...) in training.

    Batches of one record are passed on unchanged, as there is nobody to attend to; `passed_on` counts them. An optimizer step
    then has no gradient for this layer, which optimizers skip."""

    def __init__(self, width: int, heads: int = 4, dropout: float = 0.5, feedforward: int | None = None) -> None:
        """`feedforward` is `width` unless given. TrainingError unless `heads` divides `width`."""
        super().__init__()
        if width < 1 or heads < 1 or width % heads:
            raise TrainingError(f"heads must divide the width of the features: {heads} does not divide {width}")
        if not 0 <= dropout < 1:
            raise TrainingError(f"dropout must be at least 0 and below 1, not {dropout!r}")
        if feedforward is not None and feedforward < 1:
            raise TrainingError(f"feedforward must be a positive width, not {feedforward!r}")
        self.width = width
        self.encoder = nn.TransformerEncoderLayer(width, heads, feedforward or width, dropout)
        self.passed_on = 0

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if features.ndim != 2 or features.shape[1] != self.width:
            raise TrainingError(f"BatchFormer needs features of shape (records, {self.width}), not {tuple(features.shape)}")
        if len(labels) != len(features):
            raise TrainingError(f"BatchFormer needs a label for each record: {len(labels)} labels, {len(features)} records")
        if not self.training:
            return features, labels
        if len(features) == 1:
            self.passed_on += 1
            return features, labels
        mixed = self.encoder(features[:, None])[:, 0]  # the batch is the sequence
        return torch.cat([features, mixed]), torch.cat([labels, labels])
