#!/bin/sh
# From a problem file and an FAQ to a served model. MODEL: any folder that doran reads; OUT: where everything goes.
# With runs/tiny-r1/model it takes minutes on 2 cores; docs/guides/own-domain.md explains each step.
set -eu
here=$(dirname "$0")
MODEL=${1:-runs/tiny-r1/model}
OUT=${2:-runs/shop}
ask="--task jsonl --data $here/problems.jsonl --language ko --n ${N:-12} --k 4 --max-new-tokens 200"
mkdir -p "$OUT"

doran eval --model "$MODEL" $ask --out "$OUT/before.json"
doran sft --model "$MODEL" --data "$here/faq.jsonl" --out "$OUT/sft" train.tokens_per_batch=1024 \
  ${SFT:-train.epochs=60 train.optimizer=muon train.lr=4e-3 train.muon_lr=1.5e-2}
doran rl --model "$OUT/sft/model" --task jsonl --data "$here/problems.jsonl" --language ko --out "$OUT/rl" \
  --reward accuracy=1 --reward format=0.1 --reward language=0.2 \
  train.steps="${STEPS:-20}" train.lr="${RL_LR:-3e-4}" train.prompts_per_step=8 train.group_size=8 train.max_new_tokens=200
doran eval --model "$OUT/rl/model" $ask --trained-on "$here/faq.jsonl" --out "$OUT/after.json" --html "$OUT/after.html"
doran eval compare "$OUT/before.json" "$OUT/after.json"
doran card --model "$OUT/rl/model" --eval "$OUT/after.json" --license apache-2.0 --data "examples/own-domain, Apache-2.0"
doran export --model "$OUT/rl/model" --format hf --out "$OUT/hf"
echo "doran serve --model $OUT/rl/model"
