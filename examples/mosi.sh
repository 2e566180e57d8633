#!/usr/bin/env bash
# CM-BERT: sentiment of utterances from their words and the sound of each word.
#
#   examples/mosi.sh DATA [options]     DATA: mosi_{train,dev,test}.jsonl, audio/<id>.npy with a row a word
#
# BERT is tuned through masked multimodal attention over its tokens and the sound aligned with them (head cmbert):
# Adam, 3 epochs, a tenth of the steps as warm-up, rate 2e-5 (0.01 of the modalities' weights), dropout 0.3, best validation loss kept. Beside it: T-BERT,
# BERT on the text alone by its [CLS] vector, and CM-BERT's own block without the sound, for what the sound adds.
# results.md has MOSI's metrics, attention.png what the output takes from each word.
#
# Source: Yang, Xu and Gao (ACM MM 2020). Its table and what differs: docs/reproduce.md.
# Time: 1284 utterances, three fine-tunings: minutes on a GPU.
# The paper takes the mean of five seeds:
#   for seed in 0 1 2 3 4; do OUT=runs/$seed examples/mosi.sh DATA --seed $seed; done
set -euo pipefail
source "$(dirname "$0")/common.sh"

how=(--task regression --tune text --epochs 3 --batch-size 24 --warm-up 0.1 --patience 3 --lr text=2e-5,head=2e-5)
tune t-bert --modalities text --pooling cls --head linear "${how[@]}"
fusion=(--head cmbert --set dropout=0.3 --set fusion_rate=0.01)
tune cm-bert-text --modalities text "${fusion[@]}" "${how[@]}"
tune cm-bert --modalities text,audio "${fusion[@]}" "${how[@]}"

name=${NAME:-cm-bert}
pipeline extract "$data" --finetuned "$out/cm-bert" --modalities text,audio --tokens --store "$store" --name "$name"
"$python" "$here/attention.py" --run "$out/cm-bert" --store "$store" --name "$name" -o "$out/attention.png"

compare t-bert cm-bert-text cm-bert
echo "attention: $out/attention.png"
