# What the scripts beside this one share; they source it with their own arguments.
#   SCRIPT DATA [options of finetune, such as --text-model FOLDER]
# OUT (runs) and STORE (features) say where results and features go, PYTHON which Python runs it. A script that was
# stopped goes on: what is finished stays, so that other data or options need another OUT.
system=$(basename "$0" .sh)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 1 ]; then
    echo "usage: $0 DATA [options of finetune]; see the head of the script" >&2
    exit 2
fi
python=${PYTHON:-python}
store=${STORE:-features}
out=${OUT:-runs}/$system
data=$1
shift
given=("$@")

# What was asked for the first time, with the settings of the script; results of something else are never mixed with it.
asked="$data ${given[*]} ${settings:-}"
mkdir -p "$out"
if [ -e "$out/asked" ] && [ "$(cat "$out/asked")" != "$asked" ]; then
    echo "error: $out holds results of: $(cat "$out/asked"); choose another folder by OUT=" >&2
    exit 1
fi
printf '%s\n' "$asked" >"$out/asked"

pipeline() {
    # 3 says that all is done, but for samples that failed and are recorded.
    "$python" "$here/../pipeline.py" "$@" || [ $? -eq 3 ]
}

# tune NAME [options]: a fine-tuning into $out/NAME; the user's options come last, so that they count.
tune() {
    local run=$out/$1
    shift
    if [ -e "$run/run.json" ]; then
        echo "$run is finished"
        return
    fi
    echo "== $run"
    pipeline finetune "$data" --store "$store" --out "$run" "$@" "${given[@]}"
}

# compare NAME...: a table of these runs, kept as results.md.
compare() {
    "$python" "$here/runs.py" table --root "$out" "$@" >"$out/results.md"
    cat "$out/results.md"
    echo "results: $out/results.md; each run: metrics.json, predictions.csv, model/"
}
