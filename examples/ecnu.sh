#!/usr/bin/env bash
# The ECNU write-up: sentiment of posts in three classes from their text and picture.
#
#   examples/ecnu.sh DATA [options]     DATA: data/<id>.txt, data/<id>.jpg, train.txt, test_without_label.txt
#
# All tokens of BERT end to end and the pooled picture of ResNet-50 -> 1024 -> 3, trained together (head tokens-mlp).
# The grid is over the learning rate of the encoders and how many of the lowest parts of BERT stay as they are; rows
# held out of the training rows choose, the judged rows never do. Then the same with text alone and picture alone,
# and predictions for the rows without a label by the chosen run.
#
# Source: the course project of ECNU (liyunfan1223/multimodal-sentiment-analysis). Its table: docs/reproduce.md.
# Time: six fine-tunings of 3200 posts, up to five epochs each: made for a GPU; on a CPU, hours. A short grid:
#   RATES=2e-5 FROZEN=0 examples/ecnu.sh DATA
set -euo pipefail
source "$(dirname "$0")/common.sh"

how=(--epochs 5 --patience 2 --batch-size 32)
runs=()
for rate in ${RATES:-1e-5 5e-5}; do
    for frozen in ${FROZEN:-0 5}; do
        name=fused-lr-$rate-frozen-$frozen
        tune "$name" --modalities text,image --head tokens-mlp \
            --lr "text=$rate,image=$rate" --freeze "text=$frozen" "${how[@]}"
        runs+=("$name")
    done
done
best=$("$python" "$here/runs.py" best --root "$out" "${runs[@]}")
rest=${best#fused-lr-}
rate=${rest%-frozen-*} frozen=${best##*-frozen-}
echo "lowest watched loss: $best"

tune "text-lr-$rate" --modalities text --head tokens-mlp --lr "text=$rate" --freeze "text=$frozen" "${how[@]}"
tune "image-lr-$rate" --modalities image --head mlp --set hidden_sizes=[1024] --lr "image=$rate" "${how[@]}"
pipeline predict --run "$out/$best" "$data" --store "$store" -o "$out/predictions.csv"

compare "${runs[@]}" "text-lr-$rate" "image-lr-$rate"
echo "chosen: $best; labels of the rows without one: $out/predictions.csv"
