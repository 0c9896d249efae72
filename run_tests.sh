#!/usr/bin/env bash
# Make the environment, then ruff, mypy and pytest; pytest's closing line comes last.
set -euo pipefail

show_help() {
  cat <<'HELP'
用法: bash run_tests.sh [--all] [pytest 的参数 ...]

安装环境 (含测试工具), 然后运行 ruff, mypy 和 pytest.

  --all          连同较慢的测试 (标记 slow) 一起跑
  -h, --help     显示这份说明 (不安装任何东西)

其余参数交给 pytest, 例如:  bash run_tests.sh tests/data -k template
默认用两个进程 (-n 2 --dist loadfile); 自己写了 -n, --dist 或 --pdb 时按你写的来.
退出码: 0 全部通过, 1 有一项没有通过, 4 网络, 6 环境.
HELP
}

selection=()
workers=(-n 2 --dist loadfile)
arguments=()
for argument in "$@"; do
  case $argument in
    -h | --help)
      show_help
      exit 0
      ;;
    --all) selection=(-m "not gpu") ;;
    *)
      case $argument in
        -n* | --numprocesses* | --dist* | --pdb | --trace) workers=() ;;
      esac
      arguments+=("$argument")
      ;;
  esac
done

. "$(dirname "${BASH_SOURCE[0]}")/scripts/env.sh"
hantune_env dev
cd "$HANTUNE_ROOT"

# Two workers share the cores; torch's own threads on top of them only get in each other's way.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

failed=""
hantune_say "== ruff"
"$VENV_PYTHON" -m ruff check . || failed="$failed ruff"
hantune_say "== mypy"
"$VENV_PYTHON" -m mypy || failed="$failed mypy"
hantune_say "== pytest${failed:+  (已有未通过:$failed)}"
# The empty-array form is for bash 3.2 (macOS), where "${a[@]}" of an empty array is an error under set -u.
"$VENV_PYTHON" -m pytest ${workers[@]+"${workers[@]}"} ${selection[@]+"${selection[@]}"} \
  ${arguments[@]+"${arguments[@]}"} || failed="$failed pytest"
if [ -n "$failed" ]; then
  hantune_say "未通过:$failed"
  exit 1
fi
