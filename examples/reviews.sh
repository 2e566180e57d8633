#!/usr/bin/env bash
# An end-to-end classifier of reviews: text, photographs, price and brand to a rating or a class.
#
#   examples/reviews.sh DATA [options]      DATA: a table, or a folder with train.csv, valid.csv, test.csv
#
# Texts through BERT and photographs through ResNet-50, both learning; the columns beside them scaled, categories one
# column each. Two runs: all of it end to end through some hidden layers (head mlp), and a bilinear form of text and
# first photograph (head bilinear). Several photographs go through one network. The first labels what has no label.
#
# PARTS names the columns, TASK says what labels are (regression or classification), LAYERS how wide the hidden layers.
# Source: the usual end-to-end design; Baltrusaitis et al. (2019), section 6.1, Tenenbaum and Freeman (2000).
# Time: by the size of the data; made for a GPU, on a CPU some thousand reviews.
set -euo pipefail
parts=${PARTS:-text=review,image=photo1,image_2=photo2,tabular=price+brand,label=rating}
task=${TASK:-regression}
layers=${LAYERS:-[256, 64]}
settings="$parts $layers"
source "$(dirname "$0")/common.sh"

what=(--columns "$parts" --task "$task")
tune "concat-$task" "${what[@]}" --head mlp --set "hidden_sizes=$layers" --set dropout=0.1
tune "bilinear-$task" "${what[@]}" --head bilinear --modalities text,image
labels=$out/predictions-$task.csv
pipeline predict --run "$out/concat-$task" "$data" --columns "$parts" --store "$store" -o "$labels"

compare "concat-$task" "bilinear-$task"
echo "labels: $labels"
