#!/bin/sh
# Measures the model in this folder with llama-bench, on an Android phone: sh run.sh PROMPT_TOKENS DECODE_TOKENS REPEATS [OPTION…]
# Everything that was seen goes to out/. out/done is written last, so that a run that was cut short is recognised.
cd "$(dirname "$0")" || exit 1
rm -rf out && mkdir out || exit 1
chmod 700 llama-bench || exit 1
sha256sum model.gguf llama-bench > out/sha256.txt || exit 1
getprop > out/getprop.txt || exit 1
dumpsys battery > out/battery-before.txt 2>&1
prompt=$1 decode=$2 repeats=$3
shift 3
LD_LIBRARY_PATH=. ./llama-bench -m model.gguf -p "$prompt" -n "$decode" -r "$repeats" "$@" -o json > out/llama-bench.json 2> out/llama-bench.err
status=$?
dumpsys battery > out/battery-after.txt 2>&1
echo "$status" > out/done
exit "$status"
