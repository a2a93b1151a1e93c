#!/usr/bin/env bash
# What to run in the first hour on a GPU: build for it, test, sanitize, time, train. About 25 minutes.
#
#   tools/gpu_check.sh [FOLDER]      (output/gpu_check; PYTHON chooses the interpreter of an environment with torch)
#
# Each step has a log and a limit of time. A run that was cut goes on with the step that it had not finished. Steps that
# fail do not stop the others. FOLDER/gpu_check.json has all results, gpu_check.md the same as a page.
set -u
cd "$(dirname "$0")/.." || exit 1
OUT=${1:-output/gpu_check}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" || exit 1
OUT=$(cd "$OUT" && pwd)

card=$("$PYTHON" -c 'import torch
assert torch.cuda.is_available()
print(torch.cuda.get_device_name(), "sm_%d%d" % torch.cuda.get_device_capability(), torch.__version__, sep=", ")' 2>/dev/null) || {
  echo "gpu_check: $PYTHON must have a torch that sees a GPU; it has none. Set PYTHON to another interpreter."
  exit 2
}
capability=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
echo "gpu_check: $card; results go to $OUT"

# step NAME SECONDS COMMAND...: run a command unless it has a result, and write "status seconds" when it ends.
step() {
  local name=$1 limit=$2 status
  shift 2
  if [ -f "$OUT/$name.done" ]; then
    echo "  $name: done before"
    return
  fi
  echo "  $name ..."
  SECONDS=0
  timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1
  status=$?
  echo "$status $SECONDS" >"$OUT/$name.part" && mv "$OUT/$name.part" "$OUT/$name.done"
  echo "  $name: status $status after $SECONDS s"
}

step build 420 env FORCE_CUDA=1 ADET_EXT_REQUIRE_EXT=1 TORCH_CUDA_ARCH_LIST="$capability" \
  "$PYTHON" setup.py build_ext --inplace
step environment 60 "$PYTHON" -m adet_ext env
step tests 240 "$PYTHON" -m pytest -q tests/layers -k "cuda or gpu"
short="cuda and (kernel_is or greedy or alignment or many_points or large or deterministic or results_and_gradients)"
for tool in memcheck racecheck initcheck synccheck; do
  step "sanitizer_$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
    "$PYTHON" -m pytest -q -x -p no:cacheprovider tests/layers -k "$short"
done
for type in float32 float16 bfloat16; do
  step "operators_$type" 90 "$PYTHON" -m adet_ext bench ops --device cuda --dtype "$type" --json "$OUT/operators_$type.json"
done
step models 240 "$PYTHON" -m adet_ext bench models --device cuda --json "$OUT/models.json" --config-file \
  FCOS/R_50_1x.yaml BlendMask/R_50_1x.yaml SmalMask/R_50_1x.yaml DR1Mask/R_101_3x.yaml
step captured 240 "$PYTHON" tools/gpu_capture.py --json "$OUT/captured.json"
step training 240 "$PYTHON" -m adet_ext train --config-file configs/demo/shapes_R_18.yaml OUTPUT_DIR "$OUT/training" \
  MODEL.DEVICE cuda SOLVER.AMP.ENABLED True SOLVER.MAX_ITER 200

"$PYTHON" - "$OUT" "$card" <<'END'
import json, pathlib, sys

folder, card = pathlib.Path(sys.argv[1]), sys.argv[2]
steps, page = {}, [f"# GPU check: {card}", "", "| step | result | seconds |", "| --- | --- | ---: |"]
for path in sorted(folder.glob("*.done"), key=lambda path: path.stat().st_mtime):
    status, seconds = map(int, path.read_text().split())
    result = {0: "passed", 124: "out of time", 137: "out of time"}.get(status, f"failed ({status})")
    lines = (folder / f"{path.stem}.log").read_text(errors="replace").strip().splitlines()
    steps[path.stem] = {"result": result, "seconds": seconds, "last_line": lines[-1] if lines else ""}
    page.append(f"| {path.stem} | {result} | {seconds} |")
numbers = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json") if path.stem != "gpu_check"}
(folder / "gpu_check.json").write_text(json.dumps({"card": card, "steps": steps, "numbers": numbers}, indent=1))
page += ["", *(f"- {name}: `{step['last_line']}`" for name, step in steps.items())]
(folder / "gpu_check.md").write_text("\n".join(page) + "\n")
print(f"gpu_check: {folder / 'gpu_check.md'}")
sys.exit(any(step["result"] != "passed" for step in steps.values()))
END
