#!/usr/bin/env bash
# The Fakeddit tutorial: is a Reddit post genuine, from its title and picture.
#
#   examples/fakeddit.sh DATA [options]     DATA: multimodal_{train,validate,test_public}.tsv, images/<id>.jpg
#
# The [CLS] vector of BERT and the pooled picture of ResNet-50, dropout 0.3 and a linear layer to the classes each,
# their element-wise maximum (head logit-max), balanced class weights, Adam at 1e-5 without decay, a tenth of it when
# the loss of the validation rows stalls, early stopping, 20 epochs at most; results.md has weighted precision and
# recall. LABEL=2_way_label or 3_way_label takes other classes than the six. A single TSV is judged on a fifth of it.
#
# Source: Nakamura et al. (2020), r/Fakeddit, and a tutorial on it. What they report: docs/reproduce.md.
# Time: hundreds of thousands of posts: hours an epoch on a GPU. On a CPU only some thousand of them.
set -euo pipefail
source "$(dirname "$0")/common.sh"

tune "logit-max-${LABEL:=6_way_label}" --columns "label=$LABEL" --modalities text,image --pooling cls \
    --head logit-max --set dropout=0.3 --set class_weight=balanced --set weight_decay=0 --weight-decay 0 \
    --lr text=1e-5,image=1e-5,head=1e-5 --schedule plateau --clip-norm 0 --epochs 20 --patience "${PATIENCE:-5}"

compare "logit-max-$LABEL"
