#!/usr/bin/env bash
# Writes datasets and models of the formats of today into a folder, as tests/golden has them for
# every version: tools/golden_formats.sh FOLDER, with the programs on PATH. A new version of a format
# gets new files; those of older versions stay as they are.
set -euo pipefail
out="$1"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
# A table with a column that f32 would lose, and text from index 0.
{
  echo 'time,size,kind'
  for i in 0 1 2 3 4 5; do
    echo "$((1700000000 + 37 * i)),$((i % 4)).5,$(if [ $((i % 2)) = 0 ]; then echo oak; else echo elm; fi)"
  done
} >"$work/table.csv"
printf '0 0:1 2:0.5\n1 1:2\n2 0:-1 1:0.25\n0 2:3\n1 0:4\n2 1:1\n' >"$work/text"
flowreg-prep csv --label kind --train "$work/table.csv" --center --out "$out/table-3"
flowreg-prep libsvm --train "$work/text" --out "$out/libsvm-3"
flowreg-fit "$out/table-3" --epochs 3 --lr 0.1 --no-report --out "$work/table"
flowreg-fit "$out/libsvm-3" --epochs 3 --lr 0.1 --no-report --out "$work/libsvm"
cp "$work/table/model.safetensors" "$out/model-2-table.safetensors"
cp "$work/libsvm/model.safetensors" "$out/model-2-libsvm.safetensors"
# Photographs that were turned as their EXIF says: those of the tests.
mkdir -p "$work/mine/a" "$work/mine/b"
cp tests/pictures/turned.jpg "$work/mine/a/1.jpg"
cp tests/pictures/rgb.png "$work/mine/b/1.png"
flowreg-prep folder --root "$work/mine" --size 2 --exif --val-share 0 --test-share 0 --out "$out/photographs-3"
flowreg-fit "$out/photographs-3" --epochs 3 --lr 0.1 --no-report --out "$work/run"
cp "$work/run/model.safetensors" "$out/model-2-photographs.safetensors"
flowreg-predict "$out/model-2-table.safetensors" "$work/table.csv" --label kind --csv --top 1
